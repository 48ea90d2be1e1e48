"""Shipped configs reach the documented errors with seeds that nobody tuned on."""

import pytest

from bfc_lightning.cli import main
from tests.runs import summary


def metrics(root, config: str, seed: int, *argv: str) -> dict:
    command = ["fit", "-c", config, "--seed_everything", str(seed), "--run.threads", "1"]
    command += ["--run.root", str(root), "--run.name", "run", "--trainer.accelerator", "cpu"]
    assert main([*command, *argv]) == 0
    return summary(root / "run")["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_quickstart_learns_all_three_levels(tmp_path, seed):
    reached = metrics(tmp_path, "quickstart", seed)
    assert reached["val/nmse"] <= 1e-3
    assert reached["levels/residual_3"] <= 1e-2


@pytest.mark.slow
def test_depth3_reaches_its_worst_case_bound(tmp_path):
    reached = metrics(tmp_path, "depth3", 11)
    assert reached["val/nmse"] <= 3e-4
    assert reached["val/nmse"] < 0.1 * reached["reference/without_last_level"]


@pytest.mark.slow
def test_shortened_classification_is_better_than_the_target_without_its_last_level(tmp_path):
    reached = metrics(tmp_path, "classification", 11, "--trainer.max_steps", "4000")
    assert reached["val/error"] < 0.5 * reached["reference/without_last_level"]
