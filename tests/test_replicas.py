"""Many seeds in one process: each replica is its single run, and one that diverges harms nobody."""

import json
import math
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from bfc_lightning import load_run
from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.cli import main
from bfc_lightning.replicas import ReplicatedData
from bfc_lightning.runs.folder import RunError
from tests.interventions import SimulatedKillError
from tests.replica_words import DECAY, NOISE, PENALTY, RATE, SCALES, SEED, replicas
from tests.runs import checkpoint, fit, intervene, same_weights, summary

EXACT = ["--trainer.precision", "64-true"]
UNMEASURED = ["--num_measures", "0"]
# Replica 2 diverges at once; a constant high rate makes the others' scores go up and down.
MIXED = [{}, {RATE: 0.1, PENALTY: 1e-4}, {RATE: 1e200}, {SCALES: 0.3, SEED: 7}]
MIXED_WORDS = [
    *EXACT,
    *["--model.lr_scheduler", "null", "--model.optimizer.lr", "0.2", "--num_measures", "8"],
    *["--trainer.val_check_interval", "10", "--model.init_scale", "1"],
]
LOST, KEPT = 2, (0, 1, 3)


def alone(overrides: dict, number: int) -> list[str]:
    """The words of the single run that a replica is equal to."""
    settings = {SEED: number, **overrides}
    return [word for key, value in settings.items() for word in (f"--{key}", json.dumps(value))]


def weights_of(folder: Path, number: int | None = None) -> torch.Tensor:
    """All weights of a run, or of one of its replicas, in one vector."""
    prefix = "network." if number is None else f"learners.{number}.network."
    state = checkpoint(folder)["state_dict"]
    parts = [value.flatten() for name, value in state.items() if name.startswith(prefix)]
    return torch.cat(parts)


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of two vectors."""
    return float((one - other).norm() / other.norm())


def rows_of(folder: Path) -> dict[int, dict[int, dict]]:
    """`metrics.csv`: by replica, then by step."""
    found: dict[int, dict[int, dict]] = {}
    for row in read_metrics(folder / "metrics.csv"):
        found.setdefault(int(row["replica"]), {})[row["step"]] = row
    return found


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("replicas")
    assert fit(root, *MIXED_WORDS, *replicas(4, MIXED), "--run.figures", "true") == 0
    return root / "tiny"


@pytest.fixture(scope="module")
def three_alone(mixed) -> Path:
    """Single runs of the replicas that did not diverge."""
    for number in KEPT:
        words = [*MIXED_WORDS, *alone(MIXED[number], number), "--run.name", f"alone{number}"]
        assert fit(mixed.parent, *words) == 0
    return mixed.parent


EQUAL = {
    "own rates, gaps, penalties and seeds": (
        [],
        [{}, {RATE: 3e-3, SCALES: 0.3}, {PENALTY: [1e-2, 1e-3]}, {SEED: 11, SCALES: [1, 0.1]}],
    ),
    "progressive and frozen": (
        ["--scheme", "Progressive", "--scheme.steps", "50", "--scheme.freeze", '{"1": 70}'],
        [{}, {RATE: 3e-3}],
    ),
    "layerwise, AdamW": (
        ["--scheme", "Layerwise", "--scheme.steps", "50", "--model.optimizer", "AdamW"],
        [{DECAY: 0.1}, {}],
    ),
    "classes at a falling temperature": (
        [
            *["--labels", "Classification", "--model.final_temperature", "0.1"],
            *["--model.linear_readout", "true", "--model.activation", "torch.nn.ReLU"],
        ],
        [{}, {SCALES: 0.3}],
    ),
    "finite sets with noise, SGD with momentum": (
        [
            *["--data.num_train_samples", "100", "--model.optimizer", "SGD"],
            *["--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "0.9"],
        ],
        [{NOISE: 0.2}, {NOISE: 0.1}],
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_each_replica_is_its_single_run_on_the_plain_path(tmp_path, name):
    words, overrides = EQUAL[name]
    words = [*words, *EXACT, *UNMEASURED, "--trainer.max_steps", "100"]
    assert fit(tmp_path, *words, *replicas(len(overrides), overrides)) == 0
    for number, own in enumerate(overrides):
        single = ["--training_path", "plain", "--run.name", f"alone{number}"]
        assert fit(tmp_path, *words, *alone(own, number), *single) == 0
        together = weights_of(tmp_path / "tiny", number)
        assert gap(together, weights_of(tmp_path / f"alone{number}")) <= 1e-10


def test_each_replica_is_its_single_run_in_single_precision(tmp_path):
    words = [*UNMEASURED, "--trainer.max_steps", "50", "--seed_everything", "3"]
    assert fit(tmp_path, *words, *replicas(3)) == 0
    for number in range(3):
        single = ["--seed_everything", str(3 + number), "--run.name", f"alone{number}"]
        assert fit(tmp_path, *words, *single) == 0
        together = weights_of(tmp_path / "tiny", number)
        assert gap(together, weights_of(tmp_path / f"alone{number}")) <= 1e-5


def test_wide_replicas_take_turns_and_are_bit_for_bit_their_single_runs(tmp_path, monkeypatch):
    for threads in ("ONE_THREAD", "SEVERAL"):
        monkeypatch.setattr(f"bfc_lightning.fast_path._MOST_ON_{threads}", 0)
    overrides = [{}, {RATE: 0.02, PENALTY: 1e-3}]
    words = [*UNMEASURED, "--model.regularization", "1e-4"]
    assert fit(tmp_path, *words, *replicas(2, overrides)) == 0
    for number, own in enumerate(overrides):
        assert fit(tmp_path, *words, *alone(own, number), "--run.name", f"alone{number}") == 0
        together = weights_of(tmp_path / "tiny", number)
        assert torch.equal(together, weights_of(tmp_path / f"alone{number}"))


def test_numbers_of_a_replica_are_those_of_its_single_run(mixed, three_alone):
    rows = rows_of(mixed)
    for number in KEPT:
        wanted = {
            row["step"]: row for row in read_metrics(three_alone / f"alone{number}/metrics.csv")
        }
        assert rows[number].keys() == wanted.keys()
        for step, row in wanted.items():
            mine = {key: value for key, value in rows[number][step].items() if key != "replica"}
            assert mine == pytest.approx(row, rel=1e-6, abs=1e-12), step
        final = summary(mixed)["replicas"][number]["metrics"]
        single = summary(three_alone / f"alone{number}")["metrics"]
        assert final == pytest.approx(single, rel=1e-6, abs=1e-12)


def test_diverging_replica_is_marked_and_harms_no_other(mixed, three_alone, capsys):
    described = summary(mixed)["replicas"]
    assert [each["status"] == "diverged" for each in described] == [n == LOST for n in range(4)]
    assert [each["seed"] for each in described] == [0, 1, 2, 7]
    overrides = [{k: v for k, v in own.items() if k != SEED} for own in MIXED]
    assert [each["overrides"] for each in described] == overrides
    assert summary(mixed)["status"] == "finished"
    assert not weights_of(mixed, LOST).isfinite().all()
    for number in KEPT:
        single = weights_of(three_alone / f"alone{number}")
        assert gap(weights_of(mixed, number), single) <= 1e-8  # 60 steps at a high rate


def test_metrics_of_the_summary_are_medians_over_those_that_did_not_diverge(mixed):
    content = summary(mixed)
    kept = [content["replicas"][number]["metrics"] for number in KEPT]
    assert content["metrics"]["val/nmse"] == median(each["val/nmse"] for each in kept)
    wanted = {}
    for key in dict.fromkeys(key for each in kept for key in each):
        values = [each[key] for each in kept if each.get(key) is not None]
        wanted.update({key: median(values)} if values else {})
    assert content["metrics"] == wanted
    lost = content["replicas"][LOST]["metrics"]
    assert lost["train/loss"] is None
    assert math.isfinite(lost["features/residual_1_untrained"])
    assert content["samples_seen"] == 4 * 60 * 32


def test_metrics_file_has_a_row_for_each_step_and_replica(mixed):
    rows = read_metrics(mixed / "metrics.csv")
    keys = [(row["step"], row["replica"]) for row in rows]
    assert keys == sorted(set(keys))
    found = rows_of(mixed)
    assert len({tuple(by_step) for by_step in found.values()}) == 1
    assert list(found) == [0, 1, 2, 3]
    validated = {step for step, row in found[0].items() if "val/nmse" in row}
    assert validated == set(range(10, 61, 10))
    assert all(found[n][0]["reference/without_last_level"] for n in range(4))


def test_best_checkpoint_is_that_of_the_smallest_median(mixed):
    rows = rows_of(mixed)
    medians = {
        step: median(rows[number][step]["val/nmse"] for number in KEPT)
        for step in range(10, 61, 10)
    }
    best = min(medians, key=medians.__getitem__)
    assert best not in (10, 60)  # else the first or the last would do, too
    assert checkpoint(mixed, "best")["global_step"] == best


def test_tensorboard_shows_medians_with_a_band(mixed):
    board = EventAccumulator(str(mixed))
    board.Reload()
    rows = rows_of(mixed)
    for prefix, middle in (("", median), ("low/", min), ("high/", max)):
        events = board.Scalars(f"{prefix}val/nmse")
        assert [event.step for event in events] == list(range(10, 61, 10))
        for event in events:
            values = [rows[number][event.step]["val/nmse"] for number in KEPT]
            assert event.value == pytest.approx(middle(values), rel=1e-6)
    layout = Layout.FromString(
        board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    tags = {tag for chart in layout.category[0].chart for tag in _tags(chart)}
    assert {"val/nmse", "low/val/nmse", "high/val/nmse", "levels/residual_2"} <= tags
    assert tags <= set(board.Tags()["scalars"])
    assert "learning_curves" in board.Tags()["images"]


def _tags(chart) -> list[str]:
    return [tag for row in chart.margin.series for tag in (row.value, row.lower, row.upper)]


def test_learning_curves_are_drawn(mixed):
    assert [path.name for path in (mixed / "figures").iterdir()] == ["learning_curves.png"]
    assert (mixed / "figures" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("intervention", "end"),
    [
        (intervene("RaiseAt", step=33), None),
        (intervene("SignalAt", step=44), 130),
        (intervene("SignalAt", step=50), 130),
    ],
)
def test_stopped_run_goes_on_bit_for_bit(mixed, tmp_path, intervention, end):
    words = [*MIXED_WORDS, *replicas(4, MIXED)]
    if end is None:
        with pytest.raises(SimulatedKillError):
            fit(tmp_path, *words, *intervention)
    else:
        assert fit(tmp_path, *words, *intervention) == end
        statuses = [each["status"] for each in summary(tmp_path / "tiny")["replicas"]]
        assert statuses == ["interrupted", "interrupted", "diverged", "interrupted"]
    assert fit(tmp_path, *words, "--resume", "auto") == 0
    for number in KEPT:
        resumed = weights_of(tmp_path / "tiny", number)
        assert torch.equal(resumed, weights_of(mixed, number))
    files = [(folder / "metrics.csv").read_text() for folder in (mixed, tmp_path / "tiny")]
    assert files[0] == files[1]
    ends = [summary(folder) for folder in (mixed, tmp_path / "tiny")]
    assert ends[0]["replicas"] == ends[1]["replicas"]
    assert ends[0]["metrics"] == ends[1]["metrics"]


@pytest.mark.parametrize("step", [30, 41])
def test_run_stopped_in_a_later_phase_goes_on_bit_for_bit(tmp_path, step):
    words = ["--scheme", "Progressive", "--scheme.freeze", '{"1": 40}', *UNMEASURED, *replicas(2)]
    assert fit(tmp_path, *words, "--run.name", "whole") == 0
    assert fit(tmp_path, *words, *intervene("SignalAt", step=step)) == 130
    assert fit(tmp_path, *words, "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")
    files = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "tiny")]
    assert files[0] == files[1]


def test_resuming_with_other_replicas_lists_what_differs(mixed, capsys):
    before = (mixed / "metrics.csv").read_text()
    words = [*MIXED_WORDS, "--resume", "auto"]
    other = [{}, {RATE: 0.2, PENALTY: 1e-4}, {RATE: 1e200}, {SCALES: 0.3, SEED: 7}]
    for given, difference in (
        (replicas(5), "model.num_replicas 5 instead of 4"),
        (["--model.num_replicas", "1"], "model.num_replicas 1 instead of 4"),
        (replicas(4, other), f"replica_overrides.1.{RATE} 0.2 instead of 0.1"),
    ):
        assert fit(mixed.parent, *words, *given) == 2
        message = capsys.readouterr().err
        assert difference in message
        assert message.count("\n") == 1
    assert (mixed / "metrics.csv").read_text() == before


def test_checkpoint_from_before_there_were_replicas_goes_on(tmp_path):
    stepwise = [*UNMEASURED, *intervene("RaiseAt", step=1000)]  # draws as until the signal
    assert fit(tmp_path, *stepwise, "--run.name", "whole") == 0
    assert fit(tmp_path, *UNMEASURED, *intervene("SignalAt", step=33)) == 130
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    identity = content["bfc_lightning"]["identity"]
    for key in ("model.num_replicas", "replica_overrides"):
        del identity[key]
    torch.save(content, path)
    assert fit(tmp_path, *stepwise, "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")
    config = tmp_path / "tiny" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    del settings["model"]["num_replicas"], settings["replica_overrides"]
    config.write_text(yaml.safe_dump(settings))
    assert load_run(tmp_path / "tiny").step == 60


def test_load_run_gives_each_replica_with_its_target_and_samples(mixed, three_alone):
    for number in KEPT:
        mine = load_run(mixed, "last", replica=number)
        single = load_run(three_alone / f"alone{number}", "last")
        for name, value in single.target.state_dict().items():
            assert torch.equal(mine.target.state_dict()[name], value), name
        batches = [
            run.data.make_stream("cpu", torch.float64).batch("train", 5, 32)
            for run in (mine, single)
        ]
        assert all(map(torch.equal, *batches))
        x = batches[0].inputs
        assert gap(mine.network(x).detach(), single.network(x).detach()) <= 1e-8
        read = torch.cat([value.flatten() for value in mine.network.state_dict().values()])
        assert torch.equal(read, weights_of(mixed, number))
        assert mine.step == 60
    for number in (-1, 4):
        with pytest.raises(RunError, match=rf"replica must lie in \[0, 4\), got {number}"):
            load_run(mixed, replica=number)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_scores_of_a_checkpoint_are_medians_and_a_row_for_each_replica(mixed, capsys, command):
    assert main([command, "-c", str(mixed / "config.yaml"), "--ckpt_path", "last"]) == 0
    content = json.loads((mixed / f"{command}.json").read_text())
    key = "val/nmse" if command == "validate" else "test/nmse"
    scores = [each["metrics"][key] for each in content["replicas"]]
    assert scores[LOST] is None
    assert content["metrics"][key] == median(scores[number] for number in KEPT)
    assert [each["seed"] for each in content["replicas"]] == [0, 1, 2, 7]
    printed = capsys.readouterr().out
    assert "medians over 3 of 4 replicas; diverged: 2 (seed 2)" in printed
    assert f"{content['metrics'][key]:.4g}" in printed
    seen = [each["metrics"]["val/nmse"] for each in summary(mixed)["replicas"]]
    close = 1e-9 if command == "validate" else 0.9
    for number in KEPT:
        assert scores[number] == pytest.approx(seen[number], rel=close)


def test_evaluation_refuses_other_replicas_and_predict_all(mixed, capsys):
    config = ["-c", str(mixed / "config.yaml")]
    assert main(["predict", *config]) == 2
    assert "predict needs a run of one learner, got 4 replicas" in capsys.readouterr().err
    assert main(["test", *config, *replicas(2, [{}, {}])]) == 2
    assert "model.num_replicas 2 instead of 4" in capsys.readouterr().err


def test_all_diverging_ends_the_run_with_status_3(tmp_path, capsys):
    words = [*UNMEASURED, "--model.optimizer", "SGD", "--model.optimizer.lr", "1e20"]
    assert fit(tmp_path, *words, *replicas(2)) == 3
    assert "train/loss of every replica is not finite at step 5" in capsys.readouterr().err
    content = summary(tmp_path / "tiny")
    assert content["status"] == "diverged"
    assert [each["status"] for each in content["replicas"]] == ["diverged", "diverged"]
    assert not list((tmp_path / "tiny" / "checkpoints").iterdir())


def test_classifier_of_nan_is_left_out_though_its_error_is_finite(tmp_path):
    words = ["--labels", "Classification", *UNMEASURED, "--trainer.log_every_n_steps", "1000"]
    lost = {RATE: 1e30}
    assert fit(tmp_path, *words, *replicas(3, [{}, lost, lost]), "--trainer.max_steps", "20") == 0
    content = summary(tmp_path / "tiny")
    assert [each["status"] for each in content["replicas"]] == ["finished", *["diverged"] * 2]
    first = content["replicas"][0]["metrics"]
    assert content["metrics"]["val/error"] == first["val/error"]
    assert checkpoint(tmp_path / "tiny")["callbacks"]["Checkpoints"]["best_score"] == pytest.approx(
        first["val/error"]
    )


def test_result_says_how_many_replicas_and_which_diverged(tmp_path, capsys):
    words = [*UNMEASURED, *replicas(3, [{}, {RATE: 1e30, SEED: 5}, {}]), "--trainer.max_steps", "9"]
    assert fit(tmp_path, *words) == 0
    printed = capsys.readouterr()
    assert "3 replicas  seeds 0, 5, 2" in printed.err
    assert "medians over 2 of 3 replicas; diverged: 1 (seed 5)" in printed.out


def test_replicas_see_the_draws_of_their_single_runs(mixed, three_alone):
    parts = [load_run(mixed, replica=number).data for number in KEPT]
    singles = [load_run(three_alone / f"alone{number}").data for number in KEPT]
    assert ReplicatedData(parts).batch_size == 32
    for part, single in zip(parts, singles, strict=True):
        streams = [data.make_stream("cpu", torch.float64) for data in (part, single)]
        blocks = [stream.block("train", 0, 3, 32) for stream in streams]
        assert all(map(torch.equal, *blocks))
