"""`bfc baseline` from end to end: the problem of `bfc fit`, its folder, and its mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from bfc_lightning.cli import main
from tests.runs import TINY, fit, summary

FEW = ["--data.num_train_samples", "64"]
KERNEL = ["--baseline", "KernelRidge", *FEW]


def baseline(root: Path, *words: str) -> int:
    return main(["baseline", "-c", TINY, "--run.root", str(root), *words])


def record(root: Path, name: str, *words: str) -> dict:
    """What a baseline was given, in a run of that name."""
    path = root / f"{name}.pt"
    words = ["--run.name", name, "--baseline", "tests.baselines.Recorder", *FEW, *words]
    assert baseline(root, *words, "--baseline.path", str(path)) == 0
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


def test_samples_are_those_that_a_fit_with_the_same_seed_sees(tmp_path):
    noisy = ["--labels", "Regression", "--labels.noise_std", "0.3", "--seed_everything", "5"]
    given = record(tmp_path, "recorder", *noisy)
    path = tmp_path / "batches.pt"
    words = [*noisy, *FEW, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    keep = ["--trainer.callbacks+", "tests.baselines.KeepBatches"]
    assert fit(tmp_path, *words, *keep, "--trainer.callbacks.path", str(path)) == 0
    seen = torch.load(path, weights_only=True)
    assert torch.equal(sorted_rows([given["train"]]), sorted_rows(seen["train"]))
    assert torch.equal(sorted_rows([given["holdout"]]), sorted_rows(seen["val"]))
    inputs, labels, signal = given["train"]
    assert inputs.dtype == torch.float64
    assert inputs.shape == (64, 8)
    assert float((labels - signal).std()) == pytest.approx(0.3 * float(signal.std()), rel=0.4)


@pytest.mark.parametrize("scale", [None, "0.5"])
def test_learner_is_initialized_as_for_a_fit_but_at_scale_1_by_default(tmp_path, scale):
    told = [] if scale is None else ["--model.init_scale", scale]
    given = record(tmp_path, "recorder", *told)
    words = ["--trainer.max_steps", "1", "--model.optimizer.lr", "0", "--run.name", "fit"]
    words += ["--model.init_scale", scale or "1"]
    assert fit(tmp_path, *FEW, *words) == 0
    stored = torch.load(tmp_path / "fit" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {
        name.removeprefix("network."): value.double()
        for name, value in stored["state_dict"].items()
        if name.startswith("network.")
    }
    assert given["learner"].keys() == weights.keys()
    assert all(torch.equal(given["learner"][name], weights[name]) for name in weights)


def test_a_smaller_training_set_is_the_beginning_of_a_larger_one(tmp_path):
    large = record(tmp_path, "large")["train"]
    small = record(tmp_path, "small", "--data.num_train_samples", "20")["train"]
    assert all(torch.equal(a, b[:20]) for a, b in zip(small, large, strict=True))


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


def test_levels_are_not_measured_where_nobody_asks(tmp_path, ridge):
    words = ["--run.name", "brief", "--num_measures", "0", *KERNEL]
    assert baseline(tmp_path, *words) == 0
    brief, whole = summary(tmp_path / "brief")["metrics"], summary(ridge)["metrics"]
    assert brief.keys() == {"train/nmse", "val/nmse", "test/nmse"}
    assert brief.keys() < whole.keys()


def test_config_runs_again_to_the_same_numbers(ridge):
    config = ridge / "config.yaml"
    stored = yaml.safe_load(config.read_text())
    assert stored["baseline"]["class_path"] == "bfc_lightning.KernelRidge"
    assert stored["baseline"]["init_args"]["ridge"] == 1e-3
    command = config.read_text().splitlines()[0].split("Again: bfc ")[1].split()
    assert main([*command[:-1], "again"]) == 0
    assert summary(ridge.parent / "again")["metrics"] == summary(ridge)["metrics"]


def test_more_samples_leave_less_error(tmp_path):
    errors = []
    for number in ("100", "1600"):
        words = ["--run.name", number, "--baseline", "KernelRidge", "--baseline.degree", "4"]
        words += ["--baseline.kernel", "polynomial", "--data.num_train_samples", number]
        assert baseline(tmp_path, *words) == 0
        errors.append(summary(tmp_path / number)["metrics"]["test/nmse"])
    assert errors[1] < 0.1 * errors[0]


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
    ("words", "message"),
    [
        (["--baseline", "KernelRidge"], "data.num_train_samples must be given: a baseline fits a"),
        (
            [*KERNEL, "--labels", "Classification"],
            "labels must be Regression for a baseline, got Classification.",
        ),
        (
            ["--baseline", "KernelRidg", *FEW],
            "baseline: must be the name or the import path of a class, got KernelRidg. Known: "
            "EmpiricalNTK, KernelRidge, LearnerNTK",
        ),
        (
            ["--baseline.ridge", "3", *FEW],
            "baseline: must be the name or the import path of a class. Known: EmpiricalNTK",
        ),
        (["--baseline", "Gaussian", *FEW], "got Gaussian. Known: EmpiricalNTK, KernelRidge"),
        (FEW, "baseline must be given, in a config (-c FILE) or as --KEY."),
        ([*KERNEL, "--baseline.ridge", "-1"], "ridge must be positive, got -1.0."),
        ([*KERNEL, "--baseline.ridg", "1"], "Option 'ridg' is not accepted"),
        ([*KERNEL, "--resume", "auto"], "unrecognized arguments: --resume"),
        ([*KERNEL, "--run.threads", "0"], "run.threads must be at least 1, got 0."),
        (["--baseline", "nowhere.Foo", *FEW], "No module named 'nowhere'"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing_behind(tmp_path, capsys, words, message):
    assert baseline(tmp_path, *words) == 2
    lines = [ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("bfc: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_refusal_while_it_is_fitted_leaves_nothing_not_even_the_root(tmp_path, capsys):
    assert baseline(tmp_path / "some" / "where", "--baseline", "KernelRidge") == 2
    assert "data.num_train_samples must be given" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_but_the_mistake_is_printed(tmp_path, capsys):
    script = "import sys; from bfc_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["baseline", "-c", TINY, *KERNEL, "--target.init_args.widths", "[3, 9]"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--run.root", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bfc: error: target: widths must not grow")
    assert done.stderr.count("\n") == 1


def test_taken_name_is_told_before_anything_is_fitted(ridge, capsys):
    path = ridge.parent / "never.pt"
    words = ["--baseline", "tests.baselines.Recorder", "--baseline.path", str(path), *FEW]
    assert baseline(ridge.parent, "--run.name", "tiny", *words) == 2
    assert "run.name must be free in" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("how", ["numpy", "torch"])
def test_lack_of_memory_is_one_line_and_exit_4(tmp_path, capsys, how):
    words = ["--baseline", "tests.baselines.Greedy", "--baseline.how", how, *FEW]
    assert baseline(tmp_path, *words) == 4
    lines = capsys.readouterr().err.splitlines()
    assert [ln for ln in lines if ln.startswith("bfc: out of memory: ")] == lines[-1:]
    assert not list(tmp_path.iterdir())


def test_fit_that_fails_leaves_the_run_that_it_was_to_replace(tmp_path):
    assert baseline(tmp_path, *KERNEL) == 0
    before = (tmp_path / "tiny" / "summary.json").read_text()
    words = ["--run.name", "tiny", "--run.overwrite", "true", *FEW]
    with pytest.raises(RuntimeError, match="a fault of its own"):
        baseline(
            tmp_path, *words, "--baseline", "tests.baselines.Greedy", "--baseline.how", "fault"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "summary.json").read_text() == before
    assert baseline(tmp_path, *words, "--baseline", "KernelRidge", "--baseline.ridge", "1") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert summary(tmp_path / "tiny")["metrics"] != json.loads(before)["metrics"]


def test_runs_without_a_name_are_numbered(ridge):
    assert baseline(ridge.parent, *KERNEL) == 0
    assert (ridge.parent / "tiny-2" / "summary.json").is_file()


def test_help_names_the_baselines_and_what_one_takes(capsys):
    assert main(["baseline", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: bfc baseline ")
    assert "bfc_lightning.KernelRidge" in shown
    assert "--resume" not in shown
    assert main(["baseline", "--baseline.help", "KernelRidge"]) == 0
    assert "bandwidth" in capsys.readouterr().out
