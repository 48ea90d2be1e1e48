"""Worker processes: what they print, how they die, and that they never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfc_lightning.experiments.workers import Ended, Started, Task, WorkerPool
from tests.worker_functions import obey

PARENT = """
import sys
from pathlib import Path
from bfc_lightning.experiments.workers import Task, Ended, WorkerPool
from tests.worker_functions import obey
folder, order = Path(sys.argv[1]), sys.argv[2]
tasks = [Task(str(n), (order, str(folder / str(n))), folder / f"{n}.txt") for n in range(3)]
with WorkerPool(obey, 2) as pool:
    for event in pool.run(tasks):
        if isinstance(event, Ended):
            print(event.task.name, event.status, event.has_died, flush=True)
sys.exit(128 + pool.signum)
"""


def run(folder: Path, *orders: tuple[str, ...], num_workers: int = 1) -> list[Ended]:
    tasks = [
        Task(f"{number}", words, folder / f"{number}.txt") for number, words in enumerate(orders)
    ]
    with WorkerPool(obey, num_workers) as pool:
        events = list(pool.run(tasks))
    started = [event.task.name for event in events if isinstance(event, Started)]
    assert started == [task.name for task in tasks]
    return sorted((e for e in events if isinstance(e, Ended)), key=lambda end: int(end.task.name))


def wait_for(condition, seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def parent(tmp_path):
    """Starts a process with two busy workers and a third task that waits."""
    processes = []

    def start(order: str) -> subprocess.Popen:
        words = [sys.executable, "-c", PARENT, str(tmp_path), order]
        with (tmp_path / "stderr").open("w") as complaints:
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=complaints, text=True, start_new_session=True
            )
        processes.append(process)
        wait_for(lambda: all(content(tmp_path / name) for name in "01"))
        return process

    yield start
    for process in processes:
        process.kill()
        process.stdout.close()
        process.wait()


def test_status_is_what_the_function_returns_raises_or_exits_with(tmp_path):
    orders = [("return", "0"), ("return", "3"), ("exit", "2"), ("raise", "oh"), ("return", "0")]
    ends = run(tmp_path, *orders)
    assert [(end.status, end.has_died) for end in ends] == [
        (0, False),
        (3, False),
        (2, False),
        (1, False),
        (0, False),
    ]
    assert "RuntimeError: oh" in (tmp_path / "3.txt").read_text()


def test_everything_printed_goes_to_the_log_of_its_task(tmp_path, capfd):
    run(tmp_path, ("say", "one"), ("say", "two"), num_workers=2)
    for name, word in (("0", "one"), ("1", "two")):
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()
        assert sorted(lines) == [word, f"{word} of a child", f"{word} on stderr"]
    assert capfd.readouterr() == ("", "")


def test_one_process_serves_all_tasks_and_keeps_no_environment(tmp_path):
    run(tmp_path, *[("note", str(tmp_path / "pids"))] * 3)
    pids = [line.split() for line in (tmp_path / "pids").read_text().splitlines()]
    assert len({pid for pid, _ in pids}) == 1
    assert [variable for _, variable in pids] == ["unset"] * 3
    assert int(pids[0][0]) != os.getpid()


def test_dead_worker_costs_its_task_only_and_is_replaced(tmp_path):
    note = ("note", str(tmp_path / "pids"))
    ends = run(tmp_path, note, ("die", "9"), note, ("die", "15"), note)
    assert [(end.status, end.has_died) for end in ends] == [
        (0, False),
        (-9, True),
        (0, False),
        (-15, True),
        (0, False),
    ]
    assert len(set((tmp_path / "pids").read_text().split())) == 3 + 1


def test_no_more_tasks_run_at_a_time_than_there_are_workers(tmp_path):
    run(tmp_path, *[("sleep", str(tmp_path / "times"), "0.4")] * 4, num_workers=2)
    events = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    running = most = 0
    for word, _ in sorted(events, key=lambda event: float(event[1])):
        running += 1 if word == "start" else -1
        most = max(most, running)
    assert most == 2


def test_worker_that_dies_while_idle_is_replaced_and_its_next_task_runs(tmp_path):
    with WorkerPool(obey, 1) as pool:
        list(pool.run([Task("a", ("return", "0"), tmp_path / "a")]))
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        pool._workers[0].process.join()
        events = list(pool.run([Task("b", ("return", "5"), tmp_path / "b")]))
    assert [(e.status, e.has_died) for e in events if isinstance(e, Ended)] == [(5, False)]


def test_each_worker_has_variables_of_its_own_and_so_has_its_successor(tmp_path):
    note, path = ("note", str(tmp_path / "pids")), tmp_path / "pids"
    orders = [note, ("die", "9"), note, note]
    tasks = [Task(f"{n}", words, tmp_path / f"{n}.txt") for n, words in enumerate(orders)]
    with WorkerPool(obey, 1, environments=[{"BFC_TEST": "mine"}]) as pool:
        list(pool.run(tasks))
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [variable for _, variable in lines] == ["mine"] * 3
    assert len({pid for pid, _ in lines}) == 2
    variables = [{"BFC_TEST": name} for name in "ab"]
    tasks = [Task(name, ("hold", str(tmp_path / name)), tmp_path / f"{name}.txt") for name in "cd"]
    with WorkerPool(obey, 2, environments=variables) as pool:
        list(pool.run(tasks))
    assert {(tmp_path / name).read_text() for name in "cd"} == {"a", "b"}


def test_same_log_means_one_after_the_other(tmp_path):
    task = Task("a", ("sleep", str(tmp_path / "times"), "0.4"), tmp_path / "log")
    with WorkerPool(obey, 2) as pool:
        list(pool.run([task, task]))
    words = [line.split()[0] for line in (tmp_path / "times").read_text().splitlines()]
    assert words == ["start", "stop"] * 2


def test_handlers_of_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(tmp_path, ("return", "0"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_worker_once_and_no_task_is_begun_after_it(tmp_path, parent, signum):
    process = parent("save")
    os.killpg(process.pid, signum)  # as a terminal sends it, to the whole group
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert sorted(output.splitlines()) == ["0 143 False", "1 143 False"]
    for name in "01":
        assert (tmp_path / name).read_text() == f"saved after [{int(signal.SIGTERM)}]"
    assert not (tmp_path / "2").exists()


def test_a_second_signal_kills(tmp_path, parent):
    process = parent("ignore")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert sorted(output.splitlines()) == ["0 -9 True", "1 -9 True"]
    assert process.returncode == 130


def test_workers_of_a_killed_parent_save_and_end(tmp_path, parent):
    process = parent("save")
    pids = [int(content(tmp_path / name).split()[1]) for name in "01"]
    assert all(is_alive(pid) for pid in pids)
    process.kill()
    process.wait()
    for name in "01":
        wait_for(lambda name=name: content(tmp_path / name).startswith("saved"))
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert (tmp_path / "stderr").read_text() == ""
    assert not (tmp_path / "2").exists()
