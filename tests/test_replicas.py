"""Several seeds in one process: each replica equals its single run, and may diverge alone."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bfc_lightning import load_run
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import main
from bfc_lightning.runs.folder import RunError
from tests.engines import gap
from tests.interventions import SimulatedKillError
from tests.runs import (
    DOUBLE,
    checkpoint,
    error_line,
    fit,
    intervene,
    metrics_text,
    summary,
    weights,
)

UNMEASURED = ["--num_measures", "0"]
# Replica 2 diverges at step 8; a constant high rate makes the scores of the others go up and down.
MIXED = [
    *(*DOUBLE, "--model.lr_scheduler", "null", "--model.optimizer.lr", "0.2"),
    *("--trainer.val_check_interval", "10", "--model.init_scale", "1"),
]
LOST, KEPT = 2, (0, 1, 3)
FOUR = ["--model.num_replicas", "4", *intervene("PoisonAt", step=7, replica=LOST)]


def weights_of(folder: Path, replica: int) -> dict[str, torch.Tensor]:
    return weights(folder, f"learners.{replica}.network.")


def rows_of(folder: Path) -> dict[int, dict[int, dict]]:
    """`metrics.csv`: by replica, then by step."""
    found: dict[int, dict[int, dict]] = {}
    for row in read_metrics(folder / "metrics.csv"):
        found.setdefault(int(row.pop("replica")), {})[row["step"]] = row
    return found


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("replicas")
    assert fit(root, *MIXED, *FOUR, "--run.figures", "true") == 0
    return root / "tiny"


@pytest.fixture(scope="module")
def single(mixed) -> dict[int, Path]:
    """Single runs of the replicas that did not diverge."""
    for seed in KEPT:
        own = ["--seed_everything", str(seed), "--run.name", str(seed)]
        assert fit(mixed.parent, *MIXED, *own) == 0
    return {seed: mixed.parent / str(seed) for seed in KEPT}


CONTROLLED = ["--scheme", "Progressive", "--scheme.steps", "50", "--scheme.control"]
KINDS = {
    "progressive and frozen": [
        *("--scheme", "Progressive", "--scheme.steps", "50", "--scheme.freeze", '{"1": 70}'),
        *("--model.regularization", "[0.01, 0.001]"),
    ],
    "layerwise, AdamW": [
        *("--scheme", "Layerwise", "--scheme.steps", "50", "--model.optimizer", "AdamW"),
        *("--model.optimizer.weight_decay", "0.1"),
    ],
    "classes": [
        *("--labels", "Classification", "--model.final_temperature", "0.1"),
        *("--model.linear_readout", "true", "--model.activation", "torch.nn.ReLU"),
    ],
    "taught levels": [*CONTROLLED, "taught_levels"],
    "detached readout": [*CONTROLLED, "detach_readout"],
    "pulled": [
        *("--scheme", "PullBelow", "--scheme.first", "1", "--scheme.pull", "0.3"),
        *("--scheme.steps", "50"),
    ],
    "linearized": ["--model.linearized", "true"],
    "finite sets with noise, SGD with momentum": [
        *("--data.num_train_samples", "100", "--labels.noise_std", "0.2"),
        *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"),
        *("--model.optimizer.momentum", "0.9"),
    ],
}


QUICK = ("progressive and frozen", "classes")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_each_replica_equals_its_single_run_by_autograd(tmp_path, kind):
    argv = [*KINDS[kind], *DOUBLE, *UNMEASURED, "--trainer.max_steps", "100"]
    assert fit(tmp_path, *argv, "--model.num_replicas", "2") == 0
    for number in range(2):
        alone = ["--engine", "autograd", "--seed_everything", str(number), "--run.name", "a"]
        assert fit(tmp_path, *argv, *alone, "--run.overwrite", "true") == 0
        assert gap(weights_of(tmp_path / "tiny", number), weights(tmp_path / "a")) <= 1e-10


def test_each_replica_equals_its_single_run_in_single_precision(tmp_path):
    argv = [*UNMEASURED, "--trainer.max_steps", "50"]
    assert fit(tmp_path, *argv, "--seed_everything", "3", "--model.num_replicas", "3") == 0
    for number in range(3):
        alone = ["--seed_everything", str(3 + number), "--run.name", str(number)]
        assert fit(tmp_path, *argv, *alone) == 0
        together = weights_of(tmp_path / "tiny", number)
        assert gap(together, weights(tmp_path / str(number))) <= 1e-5


def test_numbers_of_a_replica_are_those_of_its_single_run(mixed, single):
    rows = rows_of(mixed)
    assert list(rows) == [0, 1, 2, 3]
    for number in KEPT:
        assert gap(weights_of(mixed, number), weights(single[number])) <= 1e-8
        expected = {row["step"]: row for row in read_metrics(single[number] / "metrics.csv")}
        assert rows[number].keys() == expected.keys()
        for step, row in expected.items():
            assert rows[number][step] == pytest.approx(row, rel=1e-6, abs=1e-12), step
        final = summary(mixed)["replicas"][number]["metrics"]
        assert final == pytest.approx(summary(single[number])["metrics"], rel=1e-6, abs=1e-12)


def test_diverged_replica_is_marked_and_left_out_of_the_medians(mixed, capsys):
    content = summary(mixed)
    assert content["status"] == "finished"
    assert content["samples_seen"] == 4 * 60 * 32
    replicas = content["replicas"]
    assert [each["status"] == "diverged" for each in replicas] == [n == LOST for n in range(4)]
    assert [each["seed"] for each in replicas] == [0, 1, 2, 3]
    assert replicas[LOST]["metrics"]["train/loss"] is None
    assert not weights_of(mixed, LOST)["constant"].isfinite()
    kept = [replicas[number]["metrics"] for number in KEPT]
    for key in ("val/nmse", "train/loss", "features/residual_1", "reference/without_last_level"):
        assert content["metrics"][key] == median(each[key] for each in kept), key


def test_output_says_how_many_replicas_there_are_and_which_diverged(tmp_path, capsys):
    argv = [*UNMEASURED, "--model.num_replicas", "3", *intervene("PoisonAt", step=3, replica=1)]
    assert fit(tmp_path, *argv, "--trainer.max_steps", "9", "--seed_everything", "4") == 0
    printed = capsys.readouterr()
    assert "3 replicas, seeds 4 to 6" in printed.err
    assert "medians over 2 of 3 replicas; diverged: seed 5" in printed.out


def test_best_checkpoint_has_the_lowest_median(mixed):
    rows, steps = rows_of(mixed), range(10, 61, 10)
    medians = {step: median(rows[n][step]["val/nmse"] for n in KEPT) for step in steps}
    best = min(medians, key=medians.__getitem__)
    assert best not in (10, 60)  # the first and the last would be found by mistake, too
    assert checkpoint(mixed, "best")["global_step"] == best


def test_tensorboard_shows_medians_with_a_band(mixed):
    board = EventAccumulator(str(mixed)).Reload()
    rows = rows_of(mixed)
    for prefix, middle in (("", median), ("low/", min), ("high/", max)):
        events = board.Scalars(f"{prefix}val/nmse")
        assert [event.step for event in events] == list(range(10, 61, 10))
        for event in events:
            values = [rows[number][event.step]["val/nmse"] for number in KEPT]
            assert event.value == pytest.approx(middle(values), rel=1e-6)
    assert [path.name for path in (mixed / "figures").iterdir()] == ["learning_curves.png"]


@pytest.mark.parametrize(
    "stop",
    [
        "SignalAt 44",
        *(pytest.param(at, marks=pytest.mark.slow) for at in ("RaiseAt 33", "SignalAt 50")),
    ],
)
def test_stopped_run_continues_bit_for_bit(mixed, tmp_path, stop):
    name, step = stop.split()
    argv = [*MIXED, *FOUR]
    if name == "RaiseAt":
        with pytest.raises(SimulatedKillError):
            fit(tmp_path, *argv, *intervene(name, step=step))
    else:
        assert fit(tmp_path, *argv, *intervene(name, step=step)) == 130
        statuses = [each["status"] for each in summary(tmp_path / "tiny")["replicas"]]
        assert statuses == ["interrupted", "interrupted", "diverged", "interrupted"]
    assert fit(tmp_path, *argv, "--resume", "auto") == 0
    for number in KEPT:
        assert gap(weights_of(tmp_path / "tiny", number), weights_of(mixed, number)) == 0
    assert metrics_text(tmp_path / "tiny") == metrics_text(mixed)
    for key in ("replicas", "metrics"):
        assert summary(tmp_path / "tiny")[key] == summary(mixed)[key]


def test_other_replicas_are_refused_on_resume_and_evaluation(mixed, capsys):
    before = metrics_text(mixed)
    for count in ("5", "1"):
        for command in (["fit", "--resume", "auto"], ["test"]):
            argv = ["-c", str(mixed / "config.yaml"), "--model.num_replicas", count]
            assert main([command[0], *argv, *command[1:]]) == 2
            message = error_line(capsys.readouterr().err)
            assert f"model.num_replicas is {count}, was 4" in message
    assert metrics_text(mixed) == before
    assert main(["predict", "-c", str(mixed / "config.yaml")]) == 2
    assert "predict needs a single learner" in error_line(capsys.readouterr().err)


def test_load_run_gives_each_replica_with_its_target_and_samples(mixed, single):
    for number in KEPT:
        mine, alone = load_run(mixed, "last", replica=number), load_run(single[number], "last")
        for name, value in alone.target.state_dict().items():
            assert torch.equal(mine.target.state_dict()[name], value), name
        batches = [
            run.data.make_stream("cpu", torch.float64).batch("train", 5, 32)
            for run in (mine, alone)
        ]
        assert all(map(torch.equal, *batches))
        x = batches[0].inputs
        torch.testing.assert_close(mine.network(x), alone.network(x), rtol=1e-8, atol=1e-8)
        assert mine.step == 60
    for number in (-1, 4):
        with pytest.raises(RunError, match=rf"replica must be in \[0, 4\), got {number}"):
            load_run(mixed, replica=number)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_of_a_checkpoint_are_medians_and_one_entry_per_replica(mixed, capsys, command):
    assert main([command, "-c", str(mixed / "config.yaml"), "--ckpt_path", "last"]) == 0
    content = json.loads((mixed / f"{command}.json").read_text())
    key = "val/nmse" if command == "validate" else "test/nmse"
    scores = [each["metrics"][key] for each in content["replicas"]]
    assert scores[LOST] is None
    assert content["metrics"][key] == median(scores[number] for number in KEPT)
    printed = capsys.readouterr().out
    assert "medians over 3 of 4 replicas; diverged: seed 2" in printed
    assert f"{content['metrics'][key]:.4g}" in printed
    for number in KEPT:
        seen = summary(mixed)["replicas"][number]["metrics"]["val/nmse"]
        assert scores[number] == pytest.approx(seen, rel=1e-9 if command == "validate" else 0.9)


def test_run_ends_with_exit_code_3_if_every_replica_diverges(tmp_path, capsys):
    argv = [*UNMEASURED, "--model.optimizer", "SGD", "--model.optimizer.lr", "1e20"]
    assert fit(tmp_path, *argv, "--model.num_replicas", "2") == 3
    assert "train/loss of every replica is not finite at step 5" in capsys.readouterr().err
    assert [each["status"] for each in summary(tmp_path / "tiny")["replicas"]] == ["diverged"] * 2
    assert not (tmp_path / "tiny" / "checkpoints").exists()


def test_classifier_with_nan_weights_is_left_out_though_its_error_is_finite(tmp_path):
    argv = ["--labels", "Classification", *UNMEASURED, "--trainer.log_every_n_steps", "1000"]
    argv += ["--model.num_replicas", "2", *intervene("PoisonAt", step=3, replica=1)]
    assert fit(tmp_path, *argv, "--trainer.max_steps", "20") == 0
    content = summary(tmp_path / "tiny")
    assert [each["status"] for each in content["replicas"]] == ["finished", "diverged"]
    first = content["replicas"][0]["metrics"]["val/error"]
    assert content["metrics"]["val/error"] == first
