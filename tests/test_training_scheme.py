"""Training schemes in whole runs: what is frozen stays, what joins is fresh, resuming is exact."""

import csv

import pytest
import torch

from bfc_lightning.runs.loading import load_run
from tests.interventions import SimulatedKillError
from tests.runs import (
    checkpoint,
    fit,
    fit_with_one_and_two_processes,
    intervene,
    same_weights,
    summary,
)

OPTIMIZERS = [
    "SGD",
    "Adam",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("AdamW", "RMSprop", "Adagrad")),
]


def scheme_words(name: str, **arguments: object) -> list[str]:
    words = ["--scheme", name]
    for key, value in arguments.items():
        words += [f"--scheme.{key}", str(value)]
    return words


def optimizer_words(name: str) -> list[str]:
    momentum = ["--model.optimizer.momentum", "0.9"] if name in ("SGD", "RMSprop") else []
    return ["--model.optimizer", name, "--model.optimizer.lr", "1e-3", *momentum]


def layer(weights: dict, level: int) -> dict:
    return {k: v for k, v in weights.items() if k.startswith(f"network.layers.{level - 1}.")}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def run_until(root, name: str, steps: int, *words: str) -> dict:
    """The checkpoint of a run that was killed right after a step's validation."""
    interval = ["--trainer.val_check_interval", "5"]
    kill = intervene("RaiseAt", step=steps + 1)
    with pytest.raises(SimulatedKillError):
        fit(root, "--run.name", name, *interval, *words, *kill)
    saved = checkpoint(root / name)
    assert saved["global_step"] == steps
    return saved


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "LBFGS"])
def test_layerwise_leaves_finished_layers_bit_identical(tmp_path, optimizer):
    words = [*scheme_words("Layerwise", steps=10), *optimizer_words(optimizer)]
    before = run_until(tmp_path, "half", 10, *words)["state_dict"]
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    after = checkpoint(tmp_path / "whole")["state_dict"]
    assert equal(layer(before, 1), layer(after, 1))
    assert not equal(layer(before, 2), layer(after, 2))
    assert not torch.equal(before["network.constant"], after["network.constant"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_layers_and_their_optimizer_state_stay_bit_identical(tmp_path, optimizer):
    words = [*scheme_words("Joint", freeze='{"1": 10}'), *optimizer_words(optimizer)]
    words += ["--model.optimizer.weight_decay", "0.1"]
    before = run_until(tmp_path, "half", 10, *words)
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    after = checkpoint(tmp_path / "whole")
    assert equal(layer(before["state_dict"], 1), layer(after["state_dict"], 1))
    assert not equal(layer(before["state_dict"], 2), layer(after["state_dict"], 2))
    states = [c["optimizer_states"][0]["state"] for c in (before, after)]
    names = list(before["state_dict"])  # the order of the parameters, constant first
    for position, name in enumerate(names):
        frozen = name.startswith("network.layers.0.")
        pairs = [
            (value, states[1][position][key])
            for key, value in states[0][position].items()
            if isinstance(value, torch.Tensor)
        ]
        assert pairs
        assert all(torch.equal(a, b) for a, b in pairs) == frozen, name


def test_freeze_is_refused_with_lbfgs(tmp_path, capsys):
    words = [*scheme_words("Joint", freeze='{"1": 10}'), *optimizer_words("LBFGS")]
    assert fit(tmp_path, *words) == 2
    assert "must be left out with LBFGS" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_progressive_goes_on_training_lower_layers(tmp_path):
    words = scheme_words("Progressive", steps=10)
    before = run_until(tmp_path, "half", 10, *words)["state_dict"]
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    after = checkpoint(tmp_path / "whole")["state_dict"]
    assert not equal(layer(before, 1), layer(after, 1))


def test_layer_that_has_not_joined_is_neither_trained_nor_part_of_the_output(tmp_path):
    words = scheme_words("Progressive", steps=10)
    run_until(tmp_path, "half", 10, *words)
    run = load_run(tmp_path / "half", checkpoint="last")
    assert run.network.active_depth == 1
    start = load_run(tmp_path / "half", checkpoint="last").network
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    output = run.network(x)
    with torch.no_grad():
        run.network.layers[1].weight.fill_(1e3)
    assert torch.equal(run.network(x), output)
    start.active_depth = 2
    assert not torch.equal(start(x), output)


@pytest.mark.parametrize("name", ["Progressive", "Layerwise"])
def test_optimizer_and_schedule_start_afresh_in_every_phase(tmp_path, name):
    words = [*scheme_words(name, steps=10), "--trainer.log_every_n_steps", "1"]
    assert fit(tmp_path, "--run.name", "run", *words) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rates = [float(r["train/learning_rate"]) for r in csv.DictReader(file) if r["train/loss"]]
    assert len(rates) == 20
    assert rates[:10] == rates[10:]
    state = checkpoint(tmp_path / "run")["optimizer_states"][0]["state"]
    assert {float(entry["step"]) for entry in state.values()} == {10.0}
    assert summary(tmp_path / "run")["steps"] == 20


@pytest.mark.parametrize("name", ["Progressive", "Layerwise"])
@pytest.mark.parametrize("step", [10, 11])
def test_resumed_run_ends_where_the_undisturbed_one_does(tmp_path, name, step):
    words = [*scheme_words(name, steps=10), "--trainer.val_check_interval", "5"]
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    signal = intervene("SignalAt", step=step)
    assert fit(tmp_path, "--run.name", "cut", *words, *signal) == 130
    assert checkpoint(tmp_path / "cut")["global_step"] == step
    assert fit(tmp_path, "--run.name", "cut", *words, "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    files = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_run_resumed_after_a_freeze_ends_where_the_undisturbed_one_does(tmp_path):
    words = [*scheme_words("Progressive", steps=10, freeze='{"1": 14}')]
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    for step in (14, 17):
        signal = intervene("SignalAt", step=step)
        name = f"cut-{step}"
        assert fit(tmp_path, "--run.name", name, *words, *signal) == 130
        assert fit(tmp_path, "--run.name", name, *words, "--resume", "auto") == 0
        assert same_weights(tmp_path / "whole", tmp_path / name)
        files = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", name)]
        assert files[0] == files[1]
        assert "scheme/frozen_layers" in files[0]


def test_checkpoint_from_before_there_were_schemes_goes_on(tmp_path):
    assert fit(tmp_path, "--run.name", "whole") == 0
    signal = intervene("SignalAt", step=30)
    assert fit(tmp_path, "--run.name", "cut", *signal) == 130
    path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    record = content["bfc_lightning"]
    record["format"] = 1
    record["identity"] = {
        key: value for key, value in record["identity"].items() if not key.startswith("scheme.")
    }
    del content["phase"], content["callbacks"]["Measurements"]["milestones"]
    del content["callbacks"]["TrainingScheme"]
    torch.save(content, path)
    assert fit(tmp_path, "--run.name", "cut", "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_another_scheme_is_another_run(tmp_path, capsys):
    words = ["--run.name", "run"]
    signal = intervene("SignalAt", step=10)
    assert fit(tmp_path, *words, *scheme_words("Progressive"), *signal) == 130
    capsys.readouterr()
    assert fit(tmp_path, *words, *scheme_words("Layerwise"), "--resume", "auto") == 2
    assert "scheme.class_path" in capsys.readouterr().err


CONTROLS = ["taught_levels", "detach_features", "detach_readout", "restart", "subtract"]
LOOP = ["--trainer.precision", "64-true", "--trainer.gradient_clip_val", "null"]
LOOP += ["--model.lr_scheduler", "null", "--model.optimizer", "SGD", "--model.optimizer.lr"]


def by_hand(run, control: str | None, scheme: str, steps: int, rates: list[float]) -> list:
    """The weights after two phases of SGD on the samples of a run, written out for two layers."""
    parameters = {
        name: value.clone().requires_grad_() for name, value in run.network.named_parameters()
    }
    first, second = run.network.scales
    stream = run.data.make_stream("cpu", torch.float64)
    for step in range(2 * steps):
        phase = step // steps
        x, y, _ = stream.batch("train", step, run.data.batch_size)
        levels = run.target.level_outputs(x)
        is_alone = phase == 0 or control in ("restart", "subtract")
        if (control == "taught_levels" and phase == 0) or (control == "subtract" and phase == 1):
            y = levels[:, 0]
        names = ("weight", "bias", "readout")
        weight, bias, readout = (parameters[f"layers.0.{name}"] for name in names)
        features = (x @ weight.T + bias) ** 2
        shown = features.detach() if control == "detach_readout" and phase == 1 else features
        output = parameters["constant"] + first * shown @ readout
        if not is_alone:
            weight, bias, readout = (parameters[f"layers.1.{name}"] for name in names)
            read = features.detach() if control == "detach_features" else features
            output = (
                output + second * (torch.cat([x, read], dim=1) @ weight.T + bias) ** 2 @ readout
            )
        loss = (output - y).square().mean() / run.target.variance
        frozen = "layers.0." if scheme == "Layerwise" and phase == 1 else None
        moved = [
            name
            for name in parameters
            if not (frozen and name.startswith(frozen))
            and not (is_alone and name.startswith("layers.1."))
        ]
        slopes = torch.autograd.grad(loss, [parameters[name] for name in moved])
        with torch.no_grad():
            for name, slope in zip(moved, slopes, strict=True):
                parameters[name] -= rates[phase] * slope
    return parameters


@pytest.mark.parametrize(
    ("scheme", "control"),
    [*(("Progressive", name) for name in (None, *CONTROLS)), ("Layerwise", "taught_levels")],
)
def test_control_takes_the_steps_of_a_loop_written_by_hand(tmp_path, scheme, control):
    untrained = ["--run.name", "untrained", *LOOP, "0", "--trainer.max_steps", "1"]
    assert fit(tmp_path, *untrained) == 0
    words = [*LOOP, "0.05", *scheme_words(scheme, steps=12, lr_factors="[1, 0.5]")]
    words += [] if control is None else ["--scheme.control", control]
    assert fit(tmp_path, "--run.name", "run", *words) == 0
    run = load_run(tmp_path / "untrained", checkpoint="last")
    expected = by_hand(run, control, scheme, 12, [0.05, 0.025])
    weights = checkpoint(tmp_path / "run")["state_dict"]
    for name, value in expected.items():
        assert torch.allclose(weights[f"network.{name}"], value, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("control", ["taught_levels", "detach_readout"])
def test_controlled_run_resumes_bit_for_bit(tmp_path, control):
    words = scheme_words("Progressive", steps=10, control=control)
    words += ["--trainer.val_check_interval", "5"]
    assert fit(tmp_path, "--run.name", "whole", *words) == 0
    for step in (7, 13):
        signal, name = intervene("SignalAt", step=step), f"cut-{step}"
        assert fit(tmp_path, "--run.name", name, *words, *signal) == 130
        assert fit(tmp_path, "--run.name", name, *words, "--resume", "auto") == 0
        assert same_weights(tmp_path / "whole", tmp_path / name)


def test_cut_gradients_end_with_the_training(tmp_path):
    words = scheme_words("Progressive", steps=10, control="detach_features")
    assert fit(tmp_path, *words) == 0
    network = load_run(tmp_path / "tiny", checkpoint="last").network
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    own = network(x).square().sum()
    below = torch.autograd.grad(own, network.layers[0].weight)[0]
    network.cut = "features"
    cut = torch.autograd.grad(network(x).square().sum(), network.layers[0].weight)[0]
    assert not torch.allclose(below, cut)


def test_another_control_is_another_run(tmp_path, capsys):
    words = [*scheme_words("Progressive", steps=10), "--run.name", "run"]
    assert fit(tmp_path, *words, *intervene("SignalAt", step=5)) == 130
    capsys.readouterr()
    controlled = ["--scheme.control", "detach_features", "--resume", "auto"]
    assert fit(tmp_path, *words, *controlled) == 2
    assert "scheme.init_args.control" in capsys.readouterr().err


CONTROLLED = ["--scheme", "Progressive", "--scheme.control"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scheme.freeze", '{"3": 10}'], "scheme.freeze must name layers 1 to 2, got 3."),
        (["--scheme", "Layerwise", "--scheme.steps", "[9]"], "one for each of 2 layers, got [9]."),
        (["--scheme", "layerwise"], "Known: Joint, Progressive, Layerwise."),
        (["--scheme", "Progressive", "--scheme.steps", "0"], "steps must be at least 1"),
        (["--scheme", "Progressive", "--scheme.lr_factors", "[1]"], "one number for each of 2"),
        (["--scheme", "Progressive", "--scheme.lr_factors", "[1, 0]"], "must all be positive"),
        (
            [
                *["--scheme", "Progressive", "--scheme.lr_factors", "[0.5, 1]"],
                *["--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", "0.1"],
            ],
            "got OneCycleLR, which sets its own",
        ),
        ([*CONTROLLED, "restart", "--labels", "Classification"], "needs regression"),
        ([*CONTROLLED, "restart", "--model.depth", "1"], "at least 2 layers, got 1."),
        ([*CONTROLLED, "subtract", "--labels", "Classification"], "needs regression"),
        ([*CONTROLLED, "detach_readout", "--model.linearized", "true"], "features that move"),
        (
            [*CONTROLLED, "subtract", "--target.widths", "[3]", "--model.depth", "2"],
            "a target of at least 2 levels, got 1.",
        ),
        ([*CONTROLLED, "subtract", "--training_path", "fast"], "autograd carries out"),
        ([*CONTROLLED, "subtract", "--model.num_replicas", "2"], "num_replicas must be 1 here"),
        (["--scheme", "Layerwise", "--scheme.control", "restart"], "scheme"),
        (["--scheme", "Joint", "--scheme.control", "restart"], "control"),
    ],
)
def test_scheme_that_cannot_be_is_one_line(tmp_path, capsys, words, complaint):
    assert fit(tmp_path, *words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert [complaint in line for line in told if "error: " in line] == [True]
    assert not list(tmp_path.iterdir())


def test_config_of_a_phased_run_holds_its_whole_length(tmp_path):
    assert fit(tmp_path, "--run.name", "run", *scheme_words("Layerwise", steps=10)) == 0
    run = load_run(tmp_path / "run", checkpoint="last")
    assert run.config["trainer"]["max_steps"] == 20
    assert run.network.active_depth == 2


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    ("name", "control", "path"),
    [
        ("Progressive", "null", "fast"),
        ("Progressive", "null", "plain"),
        ("Layerwise", "null", "fast"),
        ("Progressive", "taught_levels", "auto"),
        ("Progressive", "detach_readout", "auto"),
    ],
)
def test_two_processes_share_the_gradients_of_every_phase(tmp_path, name, control, path):
    words = [*scheme_words(name, steps=20, freeze='{"2": 30}'), "--training_path", path]
    words += ["--scheme.control", control]
    one, two = fit_with_one_and_two_processes(tmp_path, *words)
    for key, value in one.items():
        assert torch.allclose(value, two[key], rtol=1e-10, atol=1e-12), key
    before = run_until(tmp_path, "half", 30, *words, "--trainer.precision", "64-true")
    assert equal(layer(before["state_dict"], 2), layer(one, 2))
