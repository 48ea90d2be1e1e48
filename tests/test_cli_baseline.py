"""`bfc baseline` from end to end: the problem of `bfc fit`, its folder, and its errors."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from bfc_lightning.cli import main
from tests.runs import TINY, error_line, fit, summary, weights

FEW = ["--data.num_train_samples", "64"]
KERNEL = ["--baseline", "KernelRidge", *FEW]
NUMBERS = [*FEW, "--inputs.input_dim", "1", "--target.widths", "[1, 1]"]


def baseline(root: Path, *argv: str) -> int:
    return main(["baseline", "-c", TINY, "--run.root", str(root), *argv])


def record(root: Path, name: str, *given: str) -> dict:
    """The arguments that a baseline receives, in a run of that name."""
    path = root / f"{name}.pt"
    argv = ["--run.name", name, "--baseline", "tests.baselines.Recorder", *FEW, *given]
    assert baseline(root, *argv, "--baseline.path", str(path)) == 0
    return torch.load(path, weights_only=True)


def sorted_rows(parts: list[tuple]) -> torch.Tensor:
    """Inputs, label and signal of every sample, in an order that does not depend on theirs."""
    columns = [torch.cat(column).double() for column in zip(*parts, strict=True)]
    rows = torch.cat([columns[0], columns[1][:, None], columns[2][:, None]], dim=1)
    return rows[rows[:, 0].argsort()]


@pytest.fixture(scope="module")
def ridge(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("baseline")
    assert baseline(root, *KERNEL, "--baseline.ridge", "1e-3") == 0
    return root / "tiny"


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_samples_are_those_that_a_fit_with_the_same_seed_sees(tmp_path, precision):
    noisy = ["--labels", "Regression", "--labels.noise_std", "0.3", "--seed_everything", "5"]
    noisy += ["--trainer.precision", precision]
    given = record(tmp_path, "recorder", *noisy)
    path = tmp_path / "batches.pt"
    argv = [*noisy, *FEW, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    keep = ["--trainer.callbacks+", "tests.baselines.KeepBatches"]
    assert fit(tmp_path, *argv, *keep, "--trainer.callbacks.path", str(path)) == 0
    seen = torch.load(path, weights_only=True)
    assert torch.equal(sorted_rows([given["train"]]), sorted_rows(seen["train"]))
    assert torch.equal(sorted_rows([given["holdout"]]), sorted_rows(seen["val"]))
    inputs, labels, signal = given["train"]
    assert inputs.dtype == torch.float64
    assert inputs.shape == (64, 8)
    assert float((labels - signal).std()) == pytest.approx(0.3 * float(signal.std()), rel=0.4)


@pytest.mark.parametrize("scale", [None, "0.5"])
def test_learner_is_initialized_as_for_a_fit_but_at_scale_1_by_default(tmp_path, scale):
    given = record(tmp_path, "recorder", *([] if scale is None else ["--model.init_scale", scale]))
    argv = ["--trainer.max_steps", "1", "--model.optimizer.lr", "0", "--run.name", "fit"]
    argv += ["--model.init_scale", scale or "1"]
    assert fit(tmp_path, *FEW, *argv) == 0
    expected = weights(tmp_path / "fit")
    assert given["learner"].keys() == expected.keys()
    assert all(torch.equal(given["learner"][k], expected[k].double()) for k in expected)


def test_every_seed_is_another_problem_and_another_seed_of_the_baseline(tmp_path):
    first, second = (record(tmp_path, s, "--seed_everything", s) for s in ("1", "2"))
    assert first["seed"] != second["seed"]
    assert not torch.isclose(first["train"][0], second["train"][0]).any()
    again = record(tmp_path, "again", "--seed_everything", "1")
    assert again["seed"] == first["seed"]
    assert torch.equal(again["train"][2], first["train"][2])


def test_folder_holds_config_and_summary_and_nothing_else(ridge):
    assert {path.name for path in ridge.iterdir()} == {"config.yaml", "summary.json"}
    content = summary(ridge)
    assert content["status"] == "finished"
    assert content["baseline"] == "KernelRidge"
    assert content["samples_seen"] == 64
    assert content["wall_seconds"] >= content["fit_seconds"] >= 0
    assert content["versions"]["torch"]
    names = [f"{split}/nmse" for split in ("train", "val", "test")]
    assert set(content["metrics"]) == {*names, "levels/residual_1", "levels/residual_2"}
    assert content["metrics"]["train/nmse"] < 0.1 < content["metrics"]["test/nmse"] < 1.2


def test_num_measures_0_omits_the_levels(tmp_path):
    assert baseline(tmp_path, "--num_measures", "0", *KERNEL) == 0
    assert summary(tmp_path / "tiny")["metrics"].keys() == {"train/nmse", "val/nmse", "test/nmse"}


def test_config_runs_again_to_the_same_numbers(ridge):
    config = ridge / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    assert stored["baseline"]["class_path"] == "bfc_lightning.KernelRidge"
    assert stored["baseline"]["init_args"]["ridge"] == 1e-3
    command = config.read_text().splitlines()[0].split("Again: bfc ")[1].split()
    assert main([*command[:-1], "again"]) == 0
    assert summary(ridge.parent / "again")["metrics"] == summary(ridge)["metrics"]


def test_baseline_of_ones_own_is_measured_with_its_features_and_choices(tmp_path):
    record(tmp_path, "own", "--baseline.scale", "2")
    metrics = summary(tmp_path / "own")["metrics"]
    assert metrics["baseline/scale"] == 2.0
    # E (2 x_1 - G)^2 / Var G = 1 + 4 / Var G but for sampling; squares hold the linear part of G_1
    assert metrics["val/nmse"] > 1.5
    probes = {f"features/probe_{level}_1" for level in (1, 2)}
    assert {*probes, "features/residual_1"} <= metrics.keys()
    assert metrics["features/residual_1"] == metrics["features/probe_1_1"] < 0.95
    assert "features/residual_2" not in metrics


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--baseline", "KernelRidge"], r"data.num_train_samples"),
        ([*KERNEL, "--labels", "Classification"], r"labels must be Regression"),
        ([*KERNEL, "--target.init_args.widths", "[3, 9]"], r"widths .*\[3, 9\]"),
        (["--baseline", "KernelRidg", *FEW], r"baseline: .*'KernelRidge'"),
        (FEW, r"baseline must be given"),
        ([*NUMBERS, "--baseline", "ThreeLayer"], r"input_dim must be at least 2 .*, got 1"),
        ([*KERNEL, "--baseline.ridge", "-1"], r"ridge must be positive, got -1.0"),
        ([*KERNEL, "--baseline.ridg", "1"], r"'baseline.ridg'.*ridge"),
        ([*KERNEL, "--resume", "auto"], r"'?resume"),
        ([*KERNEL, "--run.threads", "0"], r"run.threads.*0"),
        ([*KERNEL, "--model.num_replicas", "2"], r"model.num_replicas must be 1"),
        (["--baseline", "nowhere.Foo", *FEW], r"nowhere"),
    ],
)
def test_mistake_is_one_line_and_leaves_no_folder(tmp_path, capsys, argv, message):
    assert baseline(tmp_path / "some" / "where", *argv) == 2
    line = error_line(capsys.readouterr().err)
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


def test_existing_name_is_refused_before_anything_is_fitted(ridge, capsys):
    path = ridge.parent / "never.pt"
    argv = ["--baseline", "tests.baselines.Recorder", "--baseline.path", str(path), *FEW]
    assert baseline(ridge.parent, "--run.name", "tiny", *argv) == 2
    assert "tiny exists" in error_line(capsys.readouterr().err)
    assert not path.exists()


@pytest.mark.parametrize("how", ["numpy", "torch"])
def test_out_of_memory_is_one_line_and_exit_code_4(tmp_path, capsys, how):
    argv = ["--baseline", "tests.baselines.Greedy", "--baseline.how", how, *FEW]
    assert baseline(tmp_path, *argv) == 4
    assert "out of memory" in error_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_fit_that_fails_keeps_the_run_that_it_replaces(tmp_path):
    assert baseline(tmp_path, *KERNEL) == 0
    before = (tmp_path / "tiny" / "summary.json").read_text()
    argv = ["--run.name", "tiny", "--run.overwrite", "true", *FEW]
    failing = ["--baseline", "tests.baselines.Greedy", "--baseline.how", "fault"]
    assert baseline(tmp_path, *argv, *failing) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "summary.json").read_text() == before
    assert baseline(tmp_path, *argv, "--baseline", "KernelRidge", "--baseline.ridge", "1") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "summary.json").read_text() != before
