"""Algorithm 1 in whole runs: stages, thresholds, controls, resuming."""

import pytest

from bfc_lightning import Distillation, PlateauThresholds, TheoremThresholds
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import main
from bfc_lightning.distillation import stage_of
from bfc_lightning.runs.loading import load_run
from tests.engines import gap
from tests.interventions import SimulatedKillError
from tests.launches import trained
from tests.runs import DOUBLE, assert_same_run, checkpoint, error_line, intervene, summary

DISTILLED = "tests/configs/distilled.yaml"
PLATEAU = ["--scheme.thresholds", "PlateauThresholds", "--scheme.thresholds.check_every", "5"]
THRESHOLDS = [
    *("--scheme.steps", "null", *PLATEAU, "--scheme.thresholds.fall", "1.0"),
    *("--scheme.thresholds.ratio", "0.1", "--scheme.thresholds.patience", "1"),
    *("--scheme.thresholds.num_samples", "64", "--scheme.thresholds.noise", "1e-3"),
    *("--model.distillation.lambda_6", "1e-3", "--model.distillation.eps_0", "100"),
    *("--trainer.max_steps", "80"),
]


def fit(root, *argv: str) -> int:
    return main(["fit", "-c", DISTILLED, "--run.root", str(root), *argv])


def stages(folder) -> dict[int, int]:
    """The stage from each step on."""
    rows = [row for row in read_metrics(folder / "metrics.csv") if "scheme/stage" in row]
    found: dict[int, int] = {}
    for row in rows:
        if row["scheme/stage"] not in found.values():
            found[row["step"]] = row["scheme/stage"]
    return found


# Phases


def test_stages_start_wide_and_narrow_weights_in_turn():
    phases = Distillation(steps=[1, 2, 3, 4]).phases(3, 100)
    assert [(p.start, p.stop, p.depth, p.trained, p.distilled) for p in phases] == [
        (0, 1, 2, (2,), 1),
        (1, 3, 2, (2,), 2),
        (3, 6, 3, (2, 3), 2),
        (6, 10, 3, (2, 3), 3),
    ]
    assert [stage_of(phase) for phase in phases] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("restart", [(2, 1, None), (2, 2, None), (2, 2, None), (2, 2, None)]),
        ("taught_levels", [(2, 1, 2), (2, 2, 2), (3, 2, 3), (3, 3, 3)]),
        ("subtract", [(2, 1, None), (2, 2, None), (2, 2, 2), (2, 2, 2)]),
    ],
)
def test_controls_act_when_the_next_layer_would_join(control, expected):
    phases = Distillation(steps=5, control=control).phases(3, 100)
    assert [(phase.depth, phase.distilled, phase.taught) for phase in phases] == expected


# Thresholds


def test_thresholds_of_the_theorem():
    rule = TheoremThresholds(constant=2.0)
    sizes = {"scales": [1.0, 0.1], "input_dim": 16}
    assert rule.limit(0, **sizes) == pytest.approx(16 ** (-1 / 24))
    assert rule.limit(1, **sizes) == pytest.approx(16 ** (-1 / 12))
    assert rule.limit(2, **sizes) == pytest.approx(0.01 * 16 ** (-1 / 48))
    assert not rule.ends_stage(0, [2.0, 1.0], **sizes)
    assert rule.ends_stage(0, [2.0, 0.5], **sizes)


def test_plateau_ends_a_stage_only_after_the_objective_has_fallen():
    rule = PlateauThresholds(fall=0.5, ratio=0.9, patience=2)
    sizes = {"scales": [1.0], "input_dim": 4}
    assert not rule.ends_stage(0, [1.0, 1.0, 1.0, 1.0], **sizes)
    assert rule.ends_stage(1, [1.0, 1.0, 1.0, 1.0], **sizes)
    assert not rule.ends_stage(0, [1.0, 0.4, 0.3, 0.2], **sizes)
    assert rule.ends_stage(0, [1.0, 0.4, 0.39, 0.38], **sizes)


# Runs


def test_stages_by_steps_find_narrow_weights_and_are_logged(tmp_path):
    assert fit(tmp_path, "--run.name", "run", *DOUBLE, "--run.figures", "true") == 0
    assert (tmp_path / "run" / "figures" / "procrustes.png").is_file()
    assert stages(tmp_path / "run") == {0: 0, 20: 1, 40: 2, 60: 3}
    metrics = summary(tmp_path / "run")["metrics"]
    assert metrics["scheme/stage"] == 3
    assert metrics["distillation/rank_2"] >= 1
    assert 0 < metrics["reference/share_3"] < metrics["reference/share_2"]
    network = load_run(tmp_path / "run", checkpoint="last").network
    assert (network.active_depth, network.distilled_depth) == (3, 3)


@pytest.mark.parametrize(
    ("argv", "step"),
    [
        pytest.param([], 20, id="steps"),
        pytest.param(THRESHOLDS, 33, id="thresholds", marks=pytest.mark.slow),
        pytest.param(THRESHOLDS, 20, id="thresholds at a check", marks=pytest.mark.slow),
    ],
)
def test_killed_run_continues_bit_for_bit(tmp_path, argv, step):
    assert fit(tmp_path, "--run.name", "whole", *argv) == 0
    with pytest.raises(SimulatedKillError):
        fit(tmp_path, "--run.name", "killed", *argv, *intervene("RaiseAt", step=step))
    assert fit(tmp_path, "--run.name", "killed", *argv, "--resume", "auto") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_thresholds_begin_stages_and_halve_eps(tmp_path):
    assert fit(tmp_path, "--run.name", "run", *THRESHOLDS) == 0
    found = stages(tmp_path / "run")
    assert list(found.values()) == [0, 1, 2, 3]
    assert all(step % 5 == 0 for step in found)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    eps = [row["scheme/eps_0"] for row in rows if "scheme/eps_0" in row]
    assert eps[0] == pytest.approx(100)
    assert eps[-1] < eps[0]
    factor = checkpoint(tmp_path / "run")["state_dict"]["network.decay_factor"]
    assert float(factor) ** 0.5 * 100 <= eps[-1]


def test_stage_that_never_begins_is_reported(tmp_path):
    rule = ["--scheme.steps", "null", "--scheme.thresholds", "TheoremThresholds"]
    rule += ["--scheme.thresholds.check_every", "10", "--scheme.thresholds.num_samples", "64"]
    with pytest.warns(UserWarning, match=r"stage K_2 of scheme\.thresholds never began"):
        assert fit(tmp_path, "--run.name", "run", *rule, "--trainer.max_steps", "20") == 0
    metrics = summary(tmp_path / "run")["metrics"]
    assert metrics["scheme/stage"] == 0
    assert metrics["scheme/objective"] > metrics["scheme/threshold"]


def test_run_may_end_right_after_a_stage_began(tmp_path):
    argv = [*THRESHOLDS, "--trainer.max_steps", "12"]
    with pytest.warns(UserWarning, match=r"stage W_3 of scheme\.thresholds never began"):
        assert fit(tmp_path, "--run.name", "run", *argv) == 0


@pytest.mark.parametrize("argv", [[], THRESHOLDS], ids=["steps", "thresholds"])
@pytest.mark.parametrize("engine", ["autograd", pytest.param("compiled", marks=pytest.mark.slow)])
def test_engines_agree(tmp_path, argv, engine):
    argv = [*argv, *DOUBLE, "--num_measures", "0"]
    eager, other = (trained(DISTILLED, tmp_path, name, *argv) for name in ("eager", engine))
    assert gap(eager, other) <= 1e-10


def test_replicas_train_in_stages_by_steps_only(tmp_path, capsys):
    assert fit(tmp_path, "--run.name", "run", "--model.num_replicas", "2") == 0
    assert len(summary(tmp_path / "run")["replicas"]) == 2
    assert fit(tmp_path, "--run.name", "other", *THRESHOLDS, "--model.num_replicas", "2") == 2
    assert "scheme.thresholds" in error_line(capsys.readouterr().err)


def test_baselines_are_not_fitted_to_the_learner_with_distillation(tmp_path, capsys):
    argv = ["-c", DISTILLED, "--run.root", str(tmp_path), "--baseline", "KernelRidge"]
    assert main(["baseline", *argv, "--data.num_train_samples", "64"]) == 2
    assert "model.distillation" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["--scheme", "Joint"], "model.distillation"),
        (["--model.distillation", "null"], "model.distillation"),
        (["--model.init_scale", "0.5"], "init_scale"),
        (["--model.width", "[8, 8]"], "width"),
        (["--target", "SingleIndex"], "PaperTarget"),
        (["--scheme.control", "detach_readout"], "control"),
        (PLATEAU, "steps cannot be combined with thresholds"),
        (["--target.signs", "balanced"], "positive"),
        (["--model.distillation.lambda_5", ".nan"], "lambda_5"),
        (["-c", "quickstart", "--scheme", "Distillation"], "requires"),
    ],
)
def test_mistakes_are_one_line_errors(tmp_path, capsys, argv, key):
    config = [] if "-c" in argv else ["-c", DISTILLED]
    assert main(["fit", *config, *argv, "--run.root", str(tmp_path)]) == 2
    assert key in error_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_layer_without_rank_is_reported(tmp_path):
    with pytest.warns(UserWarning, match=r"K_\d has no rows"):
        assert fit(tmp_path, "--model.distillation.noise", "1e-5", "--scheme.steps", "2") == 0
