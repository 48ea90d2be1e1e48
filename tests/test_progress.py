"""What is shown while many runs are under way."""

import io
import re

from rich.console import Console

from bfc_lightning.experiments.progress import RunsProgress, in_words


def shown(progress: RunsProgress) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(progress.table())
    return console.file.getvalue()


def test_table_says_what_runs_what_ended_and_how_and_when_all_is_done():
    progress = RunsProgress(9, num_done=2, num_workers=2)
    assert re.search(r"^to go +7 *$", shown(progress), re.MULTILINE)
    progress.begin("a")
    progress.begin("b")
    progress.end("a", "finished val/nmse 1.0e-02", 40.0, status="finished")
    progress.begin("c")
    progress.end("b", "out of time", 20.0, status="out_of_time")
    lines = shown(progress).splitlines()
    expected = [
        r"runs +4/9 ",
        r"running +1 +c \(0 s\)",
        r"done before +2",
        r"finished +1 +a",
        r"out of time +1 +b",
        r"to go +4 +about 75 s left, until \d\d:\d\d; a run takes 30 s",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.match(pattern, line), line


def test_end_on_another_day_names_the_day():
    progress = RunsProgress(100, num_done=0, num_workers=1)
    progress.begin("a")
    progress.end("a", "finished", 3600.0, status="finished")
    assert re.search(r"about 99.0 h left, until \w{3} \d\d:\d\d", shown(progress))


def test_names_that_do_not_fit_are_cut_off():
    progress = RunsProgress(60, num_done=0, num_workers=50)
    for number in range(50):
        progress.begin(f"width={number}-seed0")
    text = shown(progress)
    assert "width=1-seed0" in text
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("\n") == 3


def test_terminal_gets_the_table_below_the_lines(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with RunsProgress(2, num_done=0, num_workers=1) as progress:
        progress.begin("a")
        progress.end("a", "finished", 3.0, status="finished")
    error = capsys.readouterr().err
    assert "1/2 a finished (3 s, about 3 s left)" in error
    assert error.rindex("to go") > error.rindex("1/2 a finished")


def test_time_left_counts_the_workers(capsys):
    with RunsProgress(9, num_done=1, num_workers=2) as progress:
        progress.begin("a")
        progress.end("a", "finished val/nmse 1.0e-02", 40.0, status="finished")
    assert capsys.readouterr().err == ("2/9 a finished val/nmse 1.0e-02 (40 s, about 2 min left)\n")
    assert [in_words(t) for t in (5, 89, 90, 3600, 7200)] == [
        "5 s",
        "89 s",
        "2 min",
        "60 min",
        "2.0 h",
    ]
