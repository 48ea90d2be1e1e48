"""Shipped configs reach what the log says, with seeds that nobody tuned on."""

import pytest

from bfc_lightning.cli import main
from tests.runs import summary


def metrics(root, config: str, seed: int, *words: str) -> dict:
    shared = ["--run.root", str(root), "--run.name", "run", "--trainer.accelerator", "cpu"]
    command = ["fit", "-c", f"configs/{config}.yaml", "--seed_everything", str(seed)]
    assert main([*command, *shared, *words]) == 0
    return summary(root / "run")["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_quickstart_learns_all_three_levels(tmp_path, seed):
    reached = metrics(tmp_path, "quickstart", seed)
    assert reached["val/nmse"] <= 1e-3
    assert reached["levels/residual_3"] <= 1e-2


@pytest.mark.slow
def test_depth3_reaches_its_worst_case_bound(tmp_path):
    reached = metrics(tmp_path, "depth3", 11, "--run.threads", "1")
    assert reached["val/nmse"] <= 3e-4
    assert reached["val/nmse"] < 0.1 * reached["reference/without_last_level"]


@pytest.mark.slow
def test_shortened_classification_beats_the_score_without_its_last_level(tmp_path):
    reached = metrics(tmp_path, "classification", 11, "--trainer.max_steps", "4000")
    assert reached["val/error"] < 0.5 * reached["reference/without_last_level"]
