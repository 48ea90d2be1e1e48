"""The progress of a run: a bar that is renewed now and then, and nothing if unwanted."""

import re

import pytest

from bfc_lightning.callbacks import progress
from tests.runs import fit, intervene, user_callback

SHOWN = ["--trainer.enable_progress_bar", "true"]


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_bar_says_step_rate_time_left_and_errors(tmp_path, capsys, monkeypatch, replicas):
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.0)
    assert fit(tmp_path, *SHOWN, "--model.num_replicas", replicas) == 0
    last = [line for line in capsys.readouterr().err.split("\r") if "steps/s" in line][-1]
    number = r"\d\.\d\de[-+]\d\d"
    for part in ("60/60", r"<00:00", r"\dsteps/s", f"loss={number}", f"val/nmse={number}"):
        assert re.search(part, last), part


def test_line_of_the_bar_is_left_after_an_interrupt(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.0)
    assert fit(tmp_path, *SHOWN, *intervene("SignalAt", step=7)) == 130
    assert "\nbfc: step 7; to continue" in capsys.readouterr().err


def test_short_run_and_a_run_with_another_bar_show_no_bar_of_ours(tmp_path, capsys, monkeypatch):
    assert fit(tmp_path, *SHOWN) == 0
    assert "steps/s" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "_FILE_SECONDS", 0.0)
    assert fit(tmp_path) == 0
    assert fit(tmp_path, *SHOWN, *user_callback("TQDMProgressBar", refresh_rate=0)) == 0
    assert "steps/s" not in capsys.readouterr().err
