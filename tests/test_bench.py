"""`bfc bench`: everyone has a turn, and the files say what was measured."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml
from torch._dynamo.exc import TorchDynamoException

from bfc_lightning.cli import main
from bfc_lightning.experiments.bench.fitting import per_step
from bfc_lightning.experiments.bench.report import table
from bfc_lightning.experiments.bench.rounds import CONTESTANTS, Skipped, Times, ratios, take_turns

CONFIG = "tests/configs/bench.yaml"


def bench(root: Path, *words: str) -> int:
    return main(["bench", "--run.root", str(root), *words])


def result(folder: Path) -> dict:
    return json.loads((folder / "bench.json").read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """In a process of its own: what the tests' checks of shapes are wrapped in does not compile."""
    root = tmp_path_factory.mktemp("bench")
    words = ["bench", "--run.root", str(root), "-c", CONFIG, "--rounds", "2", "--replicas", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.command", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bfc: bench 2/2 fit " in done.stderr
    assert "bench: d = 8, m = 8, k = [3, 2], batch 32" in done.stdout
    return root / "bench-bench"


def test_folder_holds_the_two_files_and_no_run(measured):
    assert {path.name for path in measured.iterdir()} == {"bench.json", "bench.md"}


def test_everyone_has_a_positive_time_in_every_round(measured):
    size = result(measured)["sizes"]["bench"]
    assert set(size["contestants"]) == set(CONTESTANTS)
    for name, found in size["contestants"].items():
        if name == "jax" and importlib.util.find_spec("jax") is None:
            assert found == {"skipped": "not installed"}
            continue
        seconds = found["seconds_per_step"]
        assert len(seconds["rounds"]) == 2
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"] < 10
        assert seconds["median"] == median(seconds["rounds"])
        assert found["samples_per_second"] == pytest.approx(32 / seconds["median"])


def test_replicas_take_part_where_their_number_is_given(measured):
    contestants = result(measured)["sizes"]["bench"]["contestants"]
    numbers = {
        name: found["num_replicas"]
        for name, found in contestants.items()
        if "num_replicas" in found
    }
    assert numbers == {"fit": 1, "fit_plain": 1, "replicas": 3}


def test_fit_takes_the_fast_path_by_itself_and_the_plain_one_where_told(measured):
    found = result(measured)["sizes"]["bench"]["contestants"]
    assert found["fit"]["training_path"] == "fast"
    assert found["fit_plain"]["training_path"] == "plain"


def test_ratios_are_those_of_the_rounds(measured):
    size = result(measured)["sizes"]["bench"]
    rounds = {
        name: found["seconds_per_step"]["rounds"]
        for name, found in size["contestants"].items()
        if "seconds_per_step" in found
    }
    assert set(size["fit_takes"]) == set(rounds) - {"fit"}
    for name, found in size["fit_takes"].items():
        expected = [one / other for one, other in zip(rounds["fit"], rounds[name], strict=True)]
        assert found["rounds"] == pytest.approx(expected)
        assert found["median"] == pytest.approx(median(expected))


def test_result_says_what_was_measured_and_where(measured):
    content = result(measured)
    assert content["status"] == "finished"
    assert content["rounds"] == 2
    assert content["command"].endswith(f"-c {CONFIG} --rounds 2 --replicas 3")
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert content["machine"]["cores"] == os.cpu_count()
    size = content["sizes"]["bench"]
    assert (size["steps_per_run"], size["timed_steps"]) == (40, 30)
    assert (size["dtype"], size["device"], size["threads"]) == ("float32", "cpu", 1)
    assert size["config"]["model"]["width"] == 8
    assert size["config"]["data"]["seed"] is not None
    products = size["matrix_products"]
    assert products["flops_per_step"] == sum(products["flops"].values()) == 28_672
    rate = products["flops_per_step"] / products["seconds_per_step"]["median"] / 1e9
    assert products["gigaflops_per_second"] == pytest.approx(rate)
    limit = size["contestants"]["limit"]["seconds_per_step"]["rounds"]
    pairs = zip(products["seconds_per_step"]["rounds"], limit, strict=True)
    assert all(0 < alone < with_draw for alone, with_draw in pairs)


def test_page_has_the_numbers_of_the_file(measured):
    text = (measured / "bench.md").read_text()
    seconds = result(measured)["sizes"]["bench"]["contestants"]["bare"]["seconds_per_step"]
    assert f"| bare | {1e3 * seconds['median']:.3g} [{1e3 * seconds['min']:.3g}, " in text
    for name in CONTESTANTS:
        assert f"- **{name}**: " in text


def test_chosen_contestants_of_two_sizes_with_other_steps(tmp_path, capsys):
    other = tmp_path / "wide.yaml"
    other.write_text(Path(CONFIG).read_text().replace("width: 8", "width: 12"))
    words = ["-c", CONFIG, "-c", str(other), "--contestants", "[bare, limit]", "--steps", "30"]
    assert bench(tmp_path / "logs", *words, "--rounds", "1") == 0
    sizes = result(tmp_path / "logs" / "bench-bench-wide")["sizes"]
    assert list(sizes) == ["bench", "wide"]
    for size in sizes.values():
        assert set(size["contestants"]) == {"bare", "limit"}
        assert size["fit_takes"] == {}
        assert size["timed_steps"] == 20
    captured = capsys.readouterr()
    assert "bfc: wide 1/1 bare " in captured.err
    assert "wide: d = 8, m = 12, k = [3, 2], batch 32" in captured.out


def test_name_is_numbered_where_it_is_taken_and_results_are_replaced_only_when_asked(
    tmp_path, capsys
):
    words = ["-c", CONFIG, "--rounds", "1", "--contestants", "[limit]"]
    assert bench(tmp_path, *words) == bench(tmp_path, *words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"bench-bench", "bench-bench-2"}
    assert bench(tmp_path, *words, "--run.name", "bench-bench") == 2
    assert "run.name must be free" in capsys.readouterr().err
    before = result(tmp_path / "bench-bench")
    assert bench(tmp_path, *words, "--run.name", "bench-bench", "--run.overwrite", "true") == 0
    assert result(tmp_path / "bench-bench")["sizes"] != before["sizes"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("precious")
    assert bench(tmp_path, *words, "--run.name", "precious", "--run.overwrite", "true") == 2
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_missing_jax_and_missing_compiler_are_told_and_the_others_go_on(
    tmp_path, capsys, monkeypatch
):
    def fail(*arguments, **settings):
        def call(x):
            raise TorchDynamoException("no compiler\n\nSet TORCHDYNAMO_VERBOSE=1")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ["--contestants", "[bare, compiled, jax]", "--rounds", "1"]
    assert bench(tmp_path, "-c", CONFIG, *words) == 0
    found = result(tmp_path / "bench-bench")["sizes"]["bench"]["contestants"]
    assert found["jax"] == {"skipped": "not installed"}
    assert found["compiled"] == {"skipped": "does not compile: no compiler"}
    assert found["bare"]["seconds_per_step"]["median"] > 0
    assert "bfc: bench jax is skipped: not installed" in capsys.readouterr().err


def test_failure_of_fit_is_told_and_ends_the_command(tmp_path, capsys):
    config = tmp_path / "wild.yaml"
    learner = "{width: 8, optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.e+30}}}"
    config.write_text(Path(CONFIG).read_text().replace("{width: 8}", learner))
    words = ["--contestants", "[fit]", "--rounds", "1"]
    assert bench(tmp_path / "logs", "-c", str(config), *words) == 3
    error = capsys.readouterr().err
    assert "the run diverged" in error
    assert "error: bfc fit ended with exit status 3." in error
    assert result(tmp_path / "logs" / "bench-wild")["status"] == "running"
    assert {path.name for path in (tmp_path / "logs" / "bench-wild").iterdir()} == {
        "bench.json",
        "bench.md",
    }


def test_interrupted_fit_ends_the_command_and_keeps_what_is_known(tmp_path, capsys):
    config = tmp_path / "stopped.yaml"
    stop = {"class_path": "tests.interventions.SignalAt", "init_args": {"step": 9, "signum": 2}}
    content = yaml.safe_load(Path(CONFIG).read_text())
    content["trainer"]["callbacks"] = [stop]
    config.write_text(yaml.safe_dump(content))
    words = ["-c", CONFIG, "-c", str(config), "--contestants", "[fit]", "--rounds", "1"]
    assert bench(tmp_path / "logs", *words) == 130
    assert capsys.readouterr().err.splitlines()[1:] == ["bfc: stopped."]
    folder = tmp_path / "logs" / "bench-bench-stopped"
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.md"}
    content = result(folder)
    assert content["status"] == "running"
    assert list(content["sizes"]) == ["bench"]


MISTAKES = {
    "no rounds": (["--rounds", "0"], "rounds must be at least 1, got 0"),
    "no steps": (["--steps", "0"], "steps must be at least 1, got 0"),
    "too few steps": (["--steps", "19"], "at least twice trainer.val_check_interval = 10"),
    "no such contestant": (["--contestants", "[fit, keras]"], "contestants"),
    "config that is not there": (["-c", "nowhere.yaml"], "config must be a file, got nowhere.yaml"),
    "one config twice": (["-c", CONFIG], "configs must have different names, got bench twice"),
    "name with a slash": (["--run.name", "a/b"], "run.name must be a plain folder name, got 'a/b'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_line(name, tmp_path, capsys):
    words, message = MISTAKES[name]
    assert bench(tmp_path / "logs", "-c", CONFIG, *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "logs").exists()


OTHER_WORK = {
    "width: 8": ("width: 8, wdth: 8", "wdth"),
    "{width: 8}": ("{width: 8, activation: torch.nn.ReLU}", "model.activation must be the square"),
    "HierarchicalTarget, init_args: {widths: [3, 2], level_scales: 0.5}": (
        "SingleIndex, init_args: {link: relu}",
        "target must be a HierarchicalTarget in bfc bench, got SingleIndex",
    ),
    "input_dim: 8": ("input_dim: 8, mean: 1", "inputs must be a Gaussian with mean 0"),
    "num_measures: 0": ("num_measures: 9", "num_measures must be 0 in bfc bench, got 9"),
    "max_steps: 40": ("max_steps: 40, precision: bf16-mixed", "trainer.precision must be 32-true"),
    "accelerator: cpu": ("accelerator: auto", "trainer.accelerator must be cpu or gpu"),
    "data: {": ("scheme: {class_path: Layerwise}\ndata: {", "scheme must be Joint without freeze"),
}


@pytest.mark.parametrize("old", OTHER_WORK)
def test_work_that_the_rivals_do_not_do_is_refused(old, tmp_path, capsys):
    new, message = OTHER_WORK[old]
    config = tmp_path / "other.yaml"
    config.write_text(Path(CONFIG).read_text().replace(old, new))
    assert bench(tmp_path / "logs", "-c", str(config)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert str(config) in lines[0]
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_a_mistake(tmp_path, capsys):
    assert bench(tmp_path / "logs", "-c", "configs/bench/tiny_gpu.yaml") == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err


def test_turns_alternate_and_what_is_skipped_has_none():
    order = []

    class Runner:
        def __init__(self, name):
            self.name = name

        def seconds_per_step(self):
            order.append(self.name)
            return float(len(order))

    def refuse():
        raise Skipped("too shy")

    known: list[Times] = []
    makers = {"fit": lambda: Runner("fit"), "jax": refuse, "bare": lambda: Runner("bare")}
    times = take_turns(makers, 2, told=lambda line: None, after_round=known.append)
    assert order == ["fit", "bare", "fit", "bare"]
    assert times.seconds == {"fit": [1.0, 3.0], "bare": [2.0, 4.0]}
    assert times.skipped == {"jax": "too shy"}
    assert len(known) == 2


def test_ratios_and_times_per_step_worked_by_hand():
    assert ratios([2.0, 6.0], [1.0, 2.0]) == [2.0, 3.0]
    assert per_step([(200, 5.0), (400, 7.0), (800, 11.0)]) == 0.01


def test_table_worked_by_hand():
    spread = {"median": 2.35678, "min": 0.00123456, "max": 2.5}
    size = {
        "contestants": {
            "fit": {"seconds_per_step": spread, "samples_per_second": 1740.6},
            "jax": {"skipped": "not installed"},
            "bare": {"seconds_per_step": spread, "samples_per_second": 1740.6},
        },
        "fit_takes": {"bare": {"median": 1.0, "min": 0.98765, "max": 1.25}},
    }
    assert table(size)[1] == [
        ["fit", "2,357 [1.23, 2,500]", "1,741", "-"],
        ["jax", "skipped: not installed", "-", "-"],
        ["bare", "2,357 [1.23, 2,500]", "1,741", "1 [0.988, 1.25]"],
    ]


def test_help_is_quick():
    code = (
        "import sys; from bfc_lightning.cli import main; status = main(['bench', '--help']);"
        "assert 'torch' not in sys.modules; assert 'jax' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "bench.json" in done.stdout
