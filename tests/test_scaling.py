"""Samples needed against the dimension: by hand, on exact power laws, and end to end."""

import csv
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from bfc_lightning.cli import main
from bfc_lightning.experiments.bootstrap import NUM_DRAWS
from bfc_lightning.experiments.comparison import planned_runs
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.scaling import (
    Needed,
    exponent,
    exponent_difference,
    medians,
    needed,
    samples_needed,
)
from bfc_lightning.experiments.scaling_picture import scaling_figure
from bfc_lightning.experiments.scaling_report import scaling_csv, scaling_sections, scaling_table
from tests.comparisons import parse, write

NUMBERS = [10, 100, 1000, 10000, 100000, 1000000]
KERNEL = {"baseline": {"class_path": "KernelRidge"}, "data": {"num_train_samples": 64}}
MISTAKES = {
    "no such axis": ({"dimension": "dim"}, {}, "scaling.dimension must be an axis of .* got 'dim'"),
    "no such samples": ({"samples": "m"}, {}, "scaling.samples must be an axis of grid, got 'm'"),
    "the same axis": ({"samples": "d"}, {}, "scaling.samples must differ from .* got 'd'"),
    "no error": ({"error": 0.0}, {}, "scaling.error must be positive, got 0"),
    "an error that is no number": ({"error": math.nan}, {}, "scaling.error must be positive"),
    "unknown key": ({"eror": 0.1}, {}, "scaling.*eror"),
    "words as dimensions": (
        {},
        {"d": {"key": "inputs.init_args.input_dim", "values": {"few": 8, "many": 16}}},
        "scaling.dimension must be an axis of at least two positive numbers, got few, many",
    ),
    "a single number of samples": (
        {},
        {"n": {"key": "data.num_train_samples", "values": [64]}},
        "scaling.samples must be an axis of at least two positive numbers, got 64",
    ),
    "no samples": (
        {},
        {"n": {"key": "data.num_train_samples", "values": [0, 64]}},
        "at least two positive numbers, got 0, 64",
    ),
    "a third axis": (
        {},
        {"ratio": {"key": "target.init_args.level_scales", "values": [0.3, 0.5]}},
        "grid.ratio must have one value where scaling is given, got 2",
    ),
}


def settings(**more: object) -> dict:
    """A comparison over d and n, as the file holds it."""
    grid = {
        "n": {"key": "data.num_train_samples", "values": NUMBERS},
        "d": {"key": "inputs.init_args.input_dim", "values": [16, 8, 32]},
    }
    return {
        "grid": {**grid, **more.pop("grid", {})},
        "scaling": {"dimension": "d", "samples": "n", "error": 0.1, **more.pop("scaling", {})},
        "learners": {"joint": {}, "kernel": KERNEL},
        **more,
    }


def made_up(comparison, error) -> list[Row]:
    """Rows as if the runs had been: `error(learner, d, n, seed)`, or a status in its place."""
    rows = []
    for run in planned_runs(comparison):
        labels = dict(run.point.labels)
        found = error(run.point.learner, float(labels["d"]), float(labels["n"]), run.seed)
        status = found if isinstance(found, str) else "finished"
        metrics = {} if isinstance(found, str) else {"val/nmse": found}
        rows.append(Row(run, Path("none"), status, {"metrics": metrics}))
    return rows


def power_law(power, factor=lambda seed: 1.0):
    """Errors d^power / n, so that d^power / error samples are needed, times the seed's factor."""
    return lambda learner, d, n, seed: factor(seed) * d ** power[learner] / n


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        # halfway in the logarithm of the error is halfway in that of n
        ({100: 0.4, 400: 0.1, 1600: 0.05}, Needed(200.0)),
        ({100: 0.4, 400: 0.2, 1600: 0.05}, Needed(400.0)),
        # 0.2 between 0.4 and 0.025: a quarter of the way
        ({100: 0.4, 1600: 0.025}, Needed(200.0)),
        ({100: 0.2, 400: 0.1}, Needed(100.0, is_bound=True)),
        ({100: 0.9, 400: 0.21}, Needed(math.inf)),
        # what rises above the error again has not reached it
        ({100: 0.1, 400: 0.1, 1600: 0.4, 6400: 0.1}, Needed(3200.0)),
        ({100: 0.1, 400: 0.3}, Needed(math.inf)),
        # a diverged run
        ({100: math.inf, 400: 0.1}, Needed(400.0)),
        ({100: 0.1, 400: math.inf}, Needed(math.inf)),
        ({100: 0.4, 400: 0.0}, Needed(400.0)),
        # a run that was stopped takes nothing from those below it, and adds nothing
        ({100: 0.4, 400: 0.1, 1600: math.nan}, Needed(200.0)),
        ({100: 0.1, 400: math.nan, 1600: math.nan}, Needed(100.0, is_bound=True)),
        ({100: 0.4, 400: math.nan}, Needed(math.inf)),
        ({100: math.nan, 400: math.nan}, Needed(math.inf)),
        ({100: math.nan, 400: 0.1}, Needed(400.0)),
        ({100: 0.1, 400: math.nan, 1600: 0.1}, Needed(1600.0)),
        # a missing run matters where it decides
        ({100: None, 400: 0.1}, Needed(None)),
        ({100: 0.1, 400: None}, Needed(None)),
        ({25: None, 100: 0.4, 400: 0.1}, Needed(200.0)),
    ],
)
def test_samples_needed_by_hand(errors, wanted):
    found = samples_needed(dict(reversed(errors.items())), 0.2)
    assert found.is_bound == wanted.is_bound
    if wanted.samples is None:
        assert found.samples is None
    else:
        assert found.samples == pytest.approx(wanted.samples, rel=1e-12)


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("diverged", 1000.0),
        ("out_of_time", 1000.0),
        ("out_of_memory", 1000.0),
        ("failed", None),
        ("interrupted", None),
        ("missing", None),
    ],
)
def test_runs_without_a_result_are_infinite_or_unknown(tmp_path, status, wanted):
    comparison = parse(write(tmp_path, **settings(seeds=[0])))
    rows = made_up(comparison, lambda learner, d, n, seed: status if n < 1000 else 0.01)
    assert needed(comparison, rows)["joint", "8", 0].samples == wanted


def test_stop_with_the_most_samples_leaves_what_fewer_have_reached(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0])))
    law = power_law({"joint": 1.0, "kernel": 2.0})

    def stopped(learner, d, n, seed):
        is_stopped = learner == "kernel" and n == max(NUMBERS)
        return "out_of_memory" if is_stopped else law(learner, d, n, seed)

    whole, cut = (made_up(comparison, error) for error in (law, stopped))
    for label in ("8", "16", "32"):
        samples = [needed(comparison, rows)["kernel", label, 0].samples for rows in (whole, cut)]
        assert samples[0] == samples[1] < math.inf
    assert exponent(comparison, cut, "kernel").value == pytest.approx(2, abs=1e-12)


def test_exponents_of_exact_power_laws_are_recovered(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 1, 2])))
    error = power_law({"joint": 1.25, "kernel": 2.5}, lambda seed: 2.0**seed)
    rows = made_up(comparison, error)
    for learner, power in (("joint", 1.25), ("kernel", 2.5)):
        found = exponent(comparison, rows, learner)
        assert (found.value, found.low, found.high) == pytest.approx((power,) * 3, abs=1e-12)
    median = medians(comparison, rows, "kernel")["16"]
    wanted = 16**2.5 / 0.1
    assert (median.samples, median.low, median.high) == pytest.approx((
        2 * wanted,
        wanted,
        4 * wanted,
    ))
    found = exponent_difference(comparison, rows, "kernel", "joint")
    assert (found.value, found.low, found.high) == pytest.approx((1.25,) * 3, abs=1e-12)


def slow_exponents(table: dict[tuple[float, int], float], fewest: float, seeds: list[int]):
    """The same by loops: of all seeds, and of every draw; a table of samples by (d, seed)."""
    random = np.random.default_rng(0)
    draws = [seeds] + [
        [seeds[i] for i in line] for line in random.integers(len(seeds), size=(2000, len(seeds)))
    ]
    found = []
    for draw in draws:
        x, y = [], []
        for d in sorted({d for d, _ in table}):
            values = [table[d, seed] for seed in draw]
            known = [value for value in values if not math.isnan(value)]
            reached = [value for value in known if math.isfinite(value)]
            if 2 * len(reached) <= len(draw):
                continue
            is_bound = sorted(known)[(len(known) - 1) // 2] <= fewest
            if not is_bound:
                x.append(math.log(d))
                y.append(math.log(statistics.median(known)))
        found.append(np.polyfit(x, y, 1)[0] if len(x) > 1 else math.nan)
    return found


@pytest.mark.parametrize("num_seeds", [5, 6])
def test_intervals_are_those_of_a_slow_bootstrap(tmp_path, num_seeds):
    seeds = list(range(num_seeds))
    comparison = parse(write(tmp_path, **settings(seeds=seeds)))
    spread = np.random.default_rng(7).normal(size=(num_seeds, 3))

    def error(learner, d, n, seed):
        at = [8, 16, 32].index(int(d))
        if seed == 2 and d == 32:
            return 1.0  # not reached
        if seed == 1 and d == 16:
            return "missing"
        if seed == 3 and d == 8:
            return 0.01  # a bound
        power = {"joint": 1.5, "kernel": 2.0}[learner]
        return math.exp(spread[seed, at]) * d**power / n

    rows = made_up(comparison, error)
    slow = {}
    for learner in ("joint", "kernel"):
        table = {
            (float(d), seed): math.nan if mine.samples is None else mine.samples
            for (name, d, seed), mine in needed(comparison, rows).items()
            if name == learner
        }
        slow[learner] = np.array(slow_exponents(table, 10, seeds))
        assert len(slow[learner]) == 1 + NUM_DRAWS
        found = exponent(comparison, rows, learner)
        wanted = [slow[learner][0], *np.nanquantile(slow[learner][1:], [0.025, 0.975])]
        assert (found.value, found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-10)
        assert found.low < found.value < found.high
    gap = slow["joint"] - slow["kernel"]
    found = exponent_difference(comparison, rows, "joint", "kernel")
    wanted = [gap[0], *np.nanquantile(gap[1:], [0.025, 0.975])]
    assert (found.value, found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-10)


def test_what_a_seed_does_to_both_learners_cancels_in_their_difference(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 1, 2, 3, 4])))
    powers = {"joint": 1.0, "kernel": 2.0}
    rows = made_up(comparison, lambda name, d, n, seed: d ** (powers[name] + 0.1 * seed) / n)
    own = exponent(comparison, rows, "joint")
    assert own.high - own.low > 0.2
    found = exponent_difference(comparison, rows, "joint", "kernel")
    assert (found.value, found.low, found.high) == pytest.approx((-1.0,) * 3, abs=1e-12)


def test_bounds_and_what_is_not_reached_have_no_part_in_the_exponent(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 1, 2])))

    def error(learner, d, n, seed):
        if learner == "kernel" and d == 32 and seed > 0:
            return 1.0
        if learner == "joint" and d == 8:
            return 0.01
        return d**2 / n

    rows = made_up(comparison, error)
    for learner in ("joint", "kernel"):
        assert exponent(comparison, rows, learner).value == pytest.approx(2.0, abs=1e-12)
    median = medians(comparison, rows, "kernel")["32"]
    assert (median.samples, median.low, median.high) == (math.inf, pytest.approx(10240), math.inf)
    titles, lines = scaling_table(comparison, rows)
    assert titles == ["learner", "exponent", "d = 8", "d = 16", "d = 32"]
    assert lines[0] == ["joint", "2.00 [2.00, 2.00]", "<= 10", "2,560", "10,240"]
    assert lines[1][2:] == ["640", "2,560", "> 1,000,000 (1 of 3)"]


def test_no_exponent_and_no_interval_say_why(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 1, 2])))

    def error(learner, d, n, seed):
        is_lost = d > 8 if learner == "joint" else d > 8 and seed == 0
        return 1.0 if is_lost else d**2 / n

    rows = made_up(comparison, error)
    none = exponent(comparison, rows, "joint")
    assert math.isnan(none.value)
    assert str(none) == "- (fewer than two usable dimensions)"
    # seed 0 is more than half of a draw with a chance of 7/27
    shaky = exponent(comparison, rows, "kernel")
    assert shaky.value == pytest.approx(2.0, abs=1e-12)
    assert math.isnan(shaky.low)
    share = float(str(shaky).removeprefix("2.00 (undefined in ").partition("%")[0])
    assert share == pytest.approx(100 * 7 / 27, abs=3)
    assert math.isnan(exponent_difference(comparison, rows, "kernel", "joint").value)
    single = parse(write(tmp_path, **settings(seeds=[1])))
    rows = made_up(single, error)
    assert str(exponent(single, rows, "kernel")) == "2.00 (one seed: no interval)"
    rows = made_up(single, lambda *_: "missing")
    assert scaling_table(single, rows)[1][0][2:] == ["-", "-", "-"]


def test_csv_has_a_line_for_each_learner_dimension_and_seed(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 7])))

    def error(learner, d, n, seed):
        if learner == "kernel":
            return {8.0: 0.01, 16.0: "missing", 32.0: 1.0}[d]
        return d**2 / n

    lines = scaling_csv(comparison, made_up(comparison, error)).splitlines()
    assert lines[0] == "learner,d,seed,samples_needed,is_bound"
    assert lines[1:4] == ["joint,8,0,640,no", "joint,8,7,640,no", "joint,16,0,2560,no"]
    assert lines[7] == "kernel,8,0,10,yes"
    assert lines[9] == "kernel,16,0,,no"
    assert lines[11] == "kernel,32,0,inf,no"
    assert len(lines) == 13


def test_another_metric_may_decide(tmp_path):
    asked = {"metric": "levels/residual_2", "error": 0.5}
    comparison = parse(write(tmp_path, **settings(seeds=[0], scaling=asked)))
    rows = [
        Row(run, Path("none"), "finished", {"metrics": {"levels/residual_2": 0.1, "val/nmse": 1.0}})
        for run in planned_runs(comparison)
    ]
    assert needed(comparison, rows)["joint", "8", 0] == Needed(10.0, is_bound=True)
    assert "levels/residual_2 <= 0.5" in scaling_sections(comparison, rows)[0]


def test_picture_shows_medians_and_exponents_and_what_was_not_reached(tmp_path):
    comparison = parse(write(tmp_path, **settings(seeds=[0, 1, 2])))

    def error(learner, d, n, seed):
        if learner == "joint":
            return 0.01 if d == 8 else d**2 / n
        return 1.0

    figure = scaling_figure(comparison, made_up(comparison, error), title="few")
    (panel,) = figure.axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in panel.lines}
    joint = lines["joint: 2.00 [2.00, 2.00]"]
    assert list(joint.get_xdata()) == [8, 16, 32]
    assert list(joint.get_ydata()) == pytest.approx([10, 2560, 10240])
    assert list(lines["kernel: not reached"].get_xdata()) == []
    is_open = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in is_open] == [[8]]
    arrows = [line for line in panel.lines if "arrow" in str(line.get_marker())]
    assert sorted(len(line.get_xdata()) for line in arrows) == [0, 3]
    assert scaling_figure(comparison, made_up(comparison, lambda *_: "missing"), title="x") is None
    plain = parse(write(tmp_path, scaling=None))
    assert scaling_figure(plain, [], title="few") is None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line(mistake, tmp_path, capsys):
    scaling, grid, message = MISTAKES[mistake]
    path = write(tmp_path, **settings(scaling=scaling, grid=grid))
    assert main(["compare", "-c", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bfc: error: ")
    assert error.count("\n") == 1
    assert __import__("re").search(message, error), error


def test_comparison_leaves_table_and_picture_and_is_gone_on_with(tmp_path, capsys):
    grid = {
        "n": {"key": "data.num_train_samples", "values": [10, 320]},
        "d": {"key": "inputs.init_args.input_dim", "values": {4: 4, 6.0: 6}},
    }
    ridge = {"kernel": "polynomial", "degree": 4, "ridge": 1e-9}
    kernel = {"baseline": {"class_path": "KernelRidge", "init_args": ridge}}
    content = settings(seeds=[0], grid=grid, learners={"kernel": kernel})
    assert main(["compare", "-c", str(write(tmp_path, **content))]) == 0
    folder = tmp_path / "logs" / "few"
    captured = capsys.readouterr().out
    assert f"{folder}/scaling.csv" in captured
    assert f"{folder}/scaling.png" in captured
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["d"], row["seed"]) for row in rows] == [("4", "0"), ("6.0", "0")]
    assert all(10 < float(row["samples_needed"]) < 320 for row in rows)
    text = (folder / "compare.md").read_text()
    assert "| learner | exponent | d = 4 | d = 6.0 |" in text
    again = parse(folder / "compare.yaml")
    assert (again.scaling.dimension, again.scaling.samples, again.scaling.error) == ("d", "n", 0.1)
