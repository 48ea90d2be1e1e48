"""Samples needed against the dimension: by hand, on exact power laws, and by slow loops."""

import math
import statistics

import numpy as np
import pytest

from bfc_lightning.experiments.bootstrap import NUM_DRAWS
from bfc_lightning.experiments.plots import scaling_figure
from bfc_lightning.experiments.scaling import SamplesNeeded, samples_needed
from bfc_lightning.experiments.spec import Scaling
from tests.results import experiment, results

NUMBERS = ["10", "100", "1000", "10000", "100000", "1000000"]
SCALING = Scaling("d", "n", 0.1)


def spec_of(seeds=(0, 1, 2), *, scaling=SCALING, learners=("joint", "kernel"), **more):
    grid = {"n": NUMBERS, "d": ["16", "8", "32"]}
    return experiment(learners, seeds=seeds, scaling=scaling, **grid, **more)


def rows_of(spec, error):
    """Results with `error(learner, d, n, seed)`, or a status in its place."""
    return results(spec, lambda name, n, d, seed: error(name, float(d), float(n), seed))


def power_law(joint, kernel, factor=lambda seed: 1.0):
    """Errors d^power / n, so that d^power / error samples are needed, times the seed's factor."""
    powers = {"joint": joint, "kernel": kernel}
    return lambda learner, d, n, seed: factor(seed) * d ** powers[learner] / n


def needed_of(spec, error):
    return SamplesNeeded(spec, rows_of(spec, error))


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        # halfway in the logarithm of the error is halfway in that of n
        ({100: 0.4, 400: 0.1, 1600: 0.05}, (200.0, False)),
        # 0.2 between 0.4 and 0.025: a quarter of the way
        ({100: 0.4, 1600: 0.025}, (200.0, False)),
        ({100: 0.2, 400: 0.1}, (100.0, True)),
        ({100: 0.9, 400: 0.21}, (math.inf, False)),
        # what rises above the error again has not reached it
        ({100: 0.1, 400: 0.1, 1600: 0.4, 6400: 0.1}, (3200.0, False)),
        # a diverged run
        ({100: math.inf, 400: 0.1}, (400.0, False)),
        ({100: 0.1, 400: math.inf}, (math.inf, False)),
        ({100: 0.4, 400: 0.0}, (400.0, False)),
        # a run that was stopped takes nothing from those below it, and adds nothing
        ({100: 0.4, 400: 0.1, 1600: math.nan}, (200.0, False)),
        ({100: 0.1, 400: math.nan, 1600: math.nan}, (100.0, True)),
        ({100: math.nan, 400: math.nan}, (math.inf, False)),
        ({100: 0.1, 400: math.nan, 1600: 0.1}, (1600.0, False)),
        # a missing run matters where it decides
        ({100: None, 400: 0.1}, (math.nan, False)),
        ({25: None, 100: 0.4, 400: 0.1}, (200.0, False)),
    ],
)
def test_samples_needed_by_hand(errors, wanted):
    samples, is_bound = samples_needed(dict(reversed(errors.items())), 0.2)
    assert samples == pytest.approx(wanted[0], rel=1e-12, nan_ok=True)
    assert is_bound == wanted[1]


STOPPED = dict.fromkeys(("diverged", "timeout", "oom"), 1000.0)
UNKNOWN = dict.fromkeys(("failed", "interrupted", "missing"), math.nan)


@pytest.mark.parametrize(("status", "wanted"), (STOPPED | UNKNOWN).items())
def test_runs_without_a_result_are_infinite_or_unknown(status, wanted):
    needed = needed_of(spec_of([0]), lambda learner, d, n, seed: status if n < 1000 else 0.01)
    found = needed.table.set_index(["learner", "d"])["samples_needed"]
    assert found["joint", "8"] == pytest.approx(wanted, nan_ok=True)


def test_exponents_of_exact_power_laws_are_recovered():
    needed = needed_of(spec_of(), power_law(1.25, 2.5, lambda seed: 2.0**seed))
    for learner, power in (("joint", 1.25), ("kernel", 2.5)):
        found = needed.exponent(learner)
        assert (found.value, found.low, found.high) == pytest.approx((power,) * 3, abs=1e-12)
    assert needed.medians("kernel").loc["16", "samples"] == pytest.approx(2 * 16**2.5 / 0.1)
    found = needed.exponent("kernel", "joint")
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
def test_intervals_are_those_of_a_slow_bootstrap(num_seeds):
    seeds = list(range(num_seeds))
    spec = spec_of(seeds)
    spread = np.random.default_rng(7).normal(size=(num_seeds, 3))

    def error(learner, d, n, seed):
        if seed == 2 and d == 32:
            return 1.0  # not reached
        if seed == 1 and d == 16:
            return "missing"
        if seed == 3 and d == 8:
            return 0.01  # a bound
        power = {"joint": 1.5, "kernel": 2.0}[learner]
        return math.exp(spread[seed, [8, 16, 32].index(int(d))]) * d**power / n

    needed, slow = needed_of(spec, error), {}
    for learner, table in needed.table.groupby("learner"):
        keys = zip(table["d"].map(float), table["seed"], strict=True)
        samples = dict(zip(keys, table["samples_needed"], strict=True))
        slow[learner] = np.array(slow_exponents(samples, 10, seeds))
        assert len(slow[learner]) == 1 + NUM_DRAWS
        found = needed.exponent(learner)
        wanted = [slow[learner][0], *np.nanquantile(slow[learner][1:], [0.025, 0.975])]
        assert (found.value, found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-10)
        assert found.low < found.value < found.high
    gap = slow["joint"] - slow["kernel"]
    found = needed.exponent("joint", "kernel")
    wanted = [gap[0], *np.nanquantile(gap[1:], [0.025, 0.975])]
    assert (found.value, found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-10)


def test_bounds_and_what_is_not_reached_have_no_part_in_the_exponent():
    def error(learner, d, n, seed):
        if learner == "kernel" and d == 32 and seed > 0:
            return 1.0
        return 0.01 if learner == "joint" and d == 8 else d**2 / n

    needed = needed_of(spec_of(), error)
    for learner in ("joint", "kernel"):
        assert needed.exponent(learner).value == pytest.approx(2.0, abs=1e-12)
    assert needed.medians("kernel").loc["32", "samples"] == math.inf
    table = needed.summary()
    assert list(table.columns) == ["learner", "exponent", "d = 8", "d = 16", "d = 32"]
    assert table.to_numpy().tolist() == [
        ["joint", "2.00 [2.00, 2.00]", "<= 10", "2,560", "10,240"],
        ["kernel", "2.00 [2.00, 2.00]", "640", "2,560", "> 1,000,000 (1 of 3)"],
    ]


def test_no_exponent_and_no_interval_say_why():
    def error(learner, d, n, seed):
        is_lost = d > 8 if learner == "joint" else d > 8 and seed == 0
        return 1.0 if is_lost else d**2 / n

    needed = needed_of(spec_of(), error)
    assert str(needed.exponent("joint")) == "- (fewer than two usable dimensions)"
    # seed 0 is more than half of a draw with a chance of 7/27
    shaky = needed.exponent("kernel")
    assert shaky.value == pytest.approx(2.0, abs=1e-12)
    assert math.isnan(shaky.low)
    share = float(str(shaky).removeprefix("2.00 (undefined in ").partition("%")[0])
    assert share == pytest.approx(100 * 7 / 27, abs=3)
    assert math.isnan(needed.exponent("kernel", "joint").value)
    single = spec_of([1])
    needed = needed_of(single, error)
    assert str(needed.exponent("kernel")) == "2.00 (one seed: no interval)"
    needed = needed_of(single, lambda *_: "missing")
    assert needed.summary().iloc[0, 2:].tolist() == ["-", "-", "-"]


def test_csv_has_a_line_for_each_learner_dimension_and_seed():
    def error(learner, d, n, seed):
        found = {8.0: 0.01, 16.0: "missing", 32.0: 1.0}
        return found[d] if learner == "kernel" else d**2 / n

    lines = needed_of(spec_of([0, 7]), error).to_csv().splitlines()
    assert lines[0] == "learner,d,seed,samples_needed,is_bound"
    assert lines[1:4] == ["joint,8,0,640,no", "joint,8,7,640,no", "joint,16,0,2560,no"]
    assert lines[7:12:2] == ["kernel,8,0,10,yes", "kernel,16,0,,no", "kernel,32,0,inf,no"]
    assert len(lines) == 13


def test_figure_shows_medians_exponents_and_what_was_not_reached():
    spec = spec_of()

    def error(learner, d, n, seed):
        reached = 0.01 if d == 8 else d**2 / n
        return reached if learner == "joint" else 1.0

    (panel,) = scaling_figure(spec, rows_of(spec, error)).axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in panel.lines}
    joint, kernel = lines["joint: 2.00 [2.00, 2.00]"], lines["kernel: -"]
    assert list(joint.get_xdata()) == list(kernel.get_xdata()) == [8, 16, 32]
    assert list(joint.get_ydata()) == pytest.approx([10, 2560, 10240])
    assert min(kernel.get_ydata()) > lines["most samples tried"].get_ydata()[0]
