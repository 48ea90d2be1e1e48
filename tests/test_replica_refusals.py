"""What `bfc fit` and `bfc compare` say of replicas that cannot be."""

import pytest

from bfc_lightning.cli.learner_settings import check_learners
from bfc_lightning.runs import replication
from bfc_lightning.runs.folder import RunError
from tests import comparisons
from tests.replica_words import NOISE, PENALTY, RATE, SCALES, SEED, replicas
from tests.runs import fit

REFUSED = {
    "no replica": (["--model.num_replicas", "0"], "num_replicas must be at least 1, got 0"),
    "less than none": (["--model.num_replicas", "-1"], "num_replicas must be at least 1, got -1"),
    "too many for the memory": (
        ["--model.num_replicas", "100000000"],
        "model.num_replicas must fit into memory, got 100000000: they need about",
    ),
    "too few overrides": (replicas(3, [{}]), "one mapping for each of 3 replicas, got 1"),
    "overrides of one learner": (
        replicas(1, [{RATE: 0.1}]),
        "model.num_replicas must be at least 2 with replica_overrides, got 1",
    ),
    "key that may not differ": (replicas(2, [{}, {"model.width": 3}]), "got model.width"),
    "rate that is a word": (replicas(2, [{}, {RATE: "fast"}]), f"{RATE} must be a number"),
    "rate below 0": (replicas(2, [{}, {RATE: -1}]), "[1]: model.optimizer.init_args.lr must be"),
    "rate that is nothing": (replicas(2, [{}, {RATE: None}]), "at least 0, got None"),
    "penalty below 0": (replicas(2, [{PENALTY: [0, -1]}, {}]), f"[0]: {PENALTY} must be a number"),
    "seed that is no integer": (replicas(2, [{}, {SEED: 1.5}]), "an integer in [0, 2^32), got 1.5"),
    "seed that is too large": (
        [*replicas(2), "--seed_everything", str(2**32 - 1)],
        "seed_everything must lie in [0, 2^32) in every replica, got 4294967296",
    ),
    "gap of another depth": (
        replicas(2, [{}, {SCALES: [1, 0.5, 0.25]}]),
        "level_scales must hold one number for each of the 2 levels, got 3",
    ),
    "noise of classes": (
        ["--labels", "Classification", *replicas(2, [{}, {NOISE: 0.1}])],
        "'noise_std' is not accepted",
    ),
    "RMSprop": (["--model.optimizer", "RMSprop"], "must be SGD, Adam or AdamW"),
    "AMSGrad": (
        ["--model.optimizer", "Adam", "--model.optimizer.amsgrad", "true"],
        "share, with model.num_replicas, got amsgrad",
    ),
    "SiLU": (["--model.activation", "torch.nn.SiLU"], "SiLU has no form in place"),
    "tangent": (["--model.linearized", "true"], "LinearizedDenseNet has no gradients by hand"),
    "plain path": (["--training_path", "plain"], "training_path must be auto or fast"),
    "two processes": (["--trainer.devices", "2"], "trainer.devices must be 1 with"),
    "accumulated gradients": (
        ["--trainer.accumulate_grad_batches", "2"],
        "model.num_replicas must be 1 here: trainer.accumulate_grad_batches",
    ),
    "mixed precision": (["--trainer.precision", "bf16-mixed"], "mixes precisions there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistake_is_one_line_and_leaves_no_folder(tmp_path, capsys, name):
    words, message = REFUSED[name]
    if "--model.num_replicas" not in words:
        words = [*words, *replicas(2)]
    assert fit(tmp_path, *words) == 2
    told = capsys.readouterr().err
    assert told.startswith("bfc: error: ")
    assert told.count("\n") == 1
    assert message in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"model": {"num_replicas": 3}}, "learner many: model.num_replicas must be 1 in a comp"),
        ({"replica_overrides": [{"data.seed": 1}]}, "learners.many must begin with one of"),
    ],
)
def test_comparison_has_seeds_of_its_own(tmp_path, block, message):
    comparison = comparisons.parse(comparisons.write(tmp_path, learners={"many": block}))
    with pytest.raises(RunError, match=message):
        check_learners(comparison)


def test_base_of_a_comparison_has_no_replicas_of_its_own(tmp_path):
    path = comparisons.write(tmp_path)
    (tmp_path / "short.yaml").write_text("replica_overrides: [{data.seed: 1}]\n")
    with pytest.raises(RunError, match="replica_overrides must be empty in a comparison or a sw"):
        check_learners(comparisons.parse(path))


def test_container_allows_less_than_the_machine_has(tmp_path, monkeypatch, capsys):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(replication, "_CONTAINER_LIMITS", (tmp_path / "absent", limit))
    machine = replication.memory_there()
    limit.write_text("max\n")
    assert replication.memory_there() == machine
    limit.write_text("3000000\n")
    assert replication.memory_there() == 3_000_000
    assert fit(tmp_path, *replicas(4)) == 2
    assert "they need about 0 GB, there are 0." in capsys.readouterr().err
