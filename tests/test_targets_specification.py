"""From a user's words to the numbers of a hierarchical target."""

import pytest
import torch
from scipy import stats

from bfc_lightning.targets.specification import (
    draw_weights,
    resolve_signs,
    resolve_sources,
    resolve_widths,
    theorem_sources,
    theorem_widths,
)


@pytest.mark.parametrize(
    ("input_dim", "widths"),
    [
        (64, [8, 3, 2]),  # 8, 2.83, 1.68
        (1000, [32, 6, 2]),  # 31.6, 5.62, 2.37
        (4, [2, 2, 2]),  # 2, 1.41, 1.19
    ],
)
def test_root_widths_worked_by_hand(input_dim, widths):
    assert resolve_widths("roots", input_dim=input_dim, depth=3) == widths
    assert resolve_widths("roots", input_dim=input_dim, depth=1) == widths[:1]


def test_skip_leaves_out_the_second_layer_below():
    skips = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 2, 4]]
    assert resolve_sources("skip", depth=5) == skips


def test_theorem_widths_worked_by_hand():
    # C = 2.5 and C_1 = 2: k_2 = 3 from d = 3^(2.5^4) = 4.3e18, and k_3 = 2 from d = 2^(2.5^5)
    assert theorem_widths(4 * 10**18, 3, constants=(2.5, 2)) == [2, 1]
    assert theorem_widths(5 * 10**18, 3, constants=(2.5, 2)) == [3, 1]
    # C > C_1 = 2, so k_2 < d^(1/2^4), which is 2 at d = 2^16
    assert theorem_widths(2**16, 4, constants=(2.001, 2)) == [1, 1, 1]


def test_deep_skip_condition_worked_by_hand():
    # without {2, ..., l - C_1}, and without l - 2
    close = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 5]]
    far = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 2, 4], [0, 1, 3, 5]]
    assert theorem_sources(6, constants=(3, 2)) == close
    assert theorem_sources(6, constants=(5, 4)) == far


def test_random_signs_are_fair_coins_of_their_seed():
    first, second = resolve_signs("random", widths=[2000, 2000], seed=5)
    for row in (first, second):
        assert set(row.tolist()) == {-1.0, 1.0}
        assert stats.binomtest(int((row > 0).sum()), 2000).pvalue > 1e-3
    assert stats.binomtest(int((first == second).sum()), 2000).pvalue > 1e-3
    assert torch.equal(first, resolve_signs("random", widths=[2000], seed=5)[0])
    assert not torch.equal(first, resolve_signs("random", widths=[2000], seed=6)[0])


def test_singular_values_are_uniform_in_their_range():
    weights = draw_weights([300, 200], [[0]], singular_values=(0.5, 2.0), seed=1)
    values = torch.linalg.svdvals(weights[1, 0])
    assert float(values.min()) >= 0.5 - 1e-12
    assert float(values.max()) <= 2.0 + 1e-12
    # n = 200, p above 1e-3
    assert stats.kstest(values.numpy(), stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


def test_frames_are_drawn_anew_for_every_matrix_and_seed():
    drawn = [
        draw_weights([4, 4, 4], [[0], [0, 1]], singular_values=(1.0, 1.0), seed=seed)
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    matrices = [*drawn[0].values(), *drawn[2].values()]
    for position, matrix in enumerate(matrices):
        for other in matrices[:position]:
            assert float((matrix - other).norm()) > 0.5
