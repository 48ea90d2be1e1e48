"""The progress of a run: a line now and then, in place on a terminal, and nothing if unwanted."""

import re

import pytest

from bfc_lightning.callbacks import progress
from tests.runs import fit, intervene, user_callback

SHOWN = ["--trainer.enable_progress_bar", "true"]


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_lines_say_step_rate_time_left_and_errors(tmp_path, capsys, monkeypatch, replicas):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    assert fit(tmp_path, *SHOWN, "--model.num_replicas", replicas) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    number = r"\d\.\d\de[-+]\d\d"
    assert lines[-1].startswith("step 60/60  ")
    for part in (r"\d+ steps/s", "0 s left", f"loss {number}", f"val/nmse {number}"):
        assert re.search(part, lines[-1]), part
    assert "val/nmse" not in lines[0]


def test_line_of_a_terminal_is_renewed_and_left_after_an_interrupt(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert fit(tmp_path, *SHOWN) == 0
    assert "\r\x1b[Kstep 60/60  " in capsys.readouterr().err
    assert fit(tmp_path, *SHOWN, "--run.name", "cut", *intervene("SignalAt", step=7)) == 130
    assert "\nbfc: step 7; to continue" in capsys.readouterr().err


def test_short_run_and_a_run_with_another_bar_show_no_lines_of_ours(tmp_path, capsys, monkeypatch):
    assert fit(tmp_path, *SHOWN) == 0
    assert "step " not in capsys.readouterr().err
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    assert fit(tmp_path) == 0
    assert fit(tmp_path, *SHOWN, *user_callback("TQDMProgressBar", refresh_rate=0)) == 0
    assert "steps/s" not in capsys.readouterr().err
