"""Which training path a run takes, and what is said of it."""

from functools import cache

import pytest

from tests.fast_paths import BARE, callback_words
from tests.runs import fit, intervene, summary


@cache
def reasons() -> dict[str, tuple[list[str], str]]:
    return {
        "accumulation": (
            ["--trainer.accumulate_grad_batches", "4"],
            "trainer.accumulate_grad_batches adds up gradients there",
        ),
        "scheduled accumulation": (
            callback_words("GradientAccumulationScheduler", scheduling="{0: 2}"),
            "GradientAccumulationScheduler adds up gradients",
        ),
        "mixed precision": (
            ["--trainer.precision", "bf16-mixed"],
            "trainer.precision bf16-mixed mixes precisions there",
        ),
        "anomalies": (
            ["--trainer.detect_anomaly", "true"],
            "trainer.detect_anomaly watches autograd",
        ),
        "strategy": (
            ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.model_averaging_period", "2"],
            "DDPStrategy has a way of its own to share gradients",
        ),
        "gradients": (
            intervene("GradientWatcher"),
            "GradientWatcher waits for on_before_optimizer_step",
        ),
        "checkpoints at times": (
            callback_words("ModelCheckpoint", train_time_interval="0:01:00", dirpath="/tmp"),
            "ModelCheckpoint saves at times, which Lightning does on this path only",
        ),
        "optimizer": (["--model.optimizer", "LBFGS"], "LBFGS evaluates the loss by itself"),
        "activation": (
            ["--model.activation", "torch.nn.SiLU"],
            "SiLU has no form in place",
        ),
        "function": (["--model.activation", "torch.square"], "square has no form in place"),
        "linearized": (
            ["--model.linearized", "true"],
            "LinearizedDenseNet has no gradients by hand",
        ),
    }


@pytest.mark.parametrize("name", reasons())
def test_fast_path_is_refused_where_it_cannot_be_and_leaves_nothing(tmp_path, capsys, name):
    words, reason = reasons()[name]
    assert fit(tmp_path, "--training_path", "fast", *words) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [f"bfc: error: training_path must be auto or plain here, got fast: {reason}."]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["accumulation", "gradients", "activation", "anomalies"])
def test_auto_takes_the_plain_path_where_it_must_and_says_why(tmp_path, capsys, name):
    words, reason = reasons()[name]
    assert fit(tmp_path, *BARE, "--trainer.max_steps", "3", *words) == 0
    assert f"bfc: plain training path: {reason}." in capsys.readouterr().err.splitlines()
    content = summary(tmp_path / "tiny")
    assert (content["training_path"], content["steps"]) == ("plain", 3)


def test_auto_is_fast_where_it_can_be_and_says_nothing(tmp_path, capsys):
    assert fit(tmp_path, *BARE, "--trainer.max_steps", "3") == 0
    assert "training path" not in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["training_path"] == "fast"


def test_path_that_does_not_exist_is_refused(tmp_path, capsys):
    assert fit(tmp_path, "--training_path", "faster") == 2
    assert "training_path" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
