"""From a user's words to the numbers of a hierarchical target."""

import re

import pytest
import torch
from scipy import stats

from bfc_lightning.targets.specification import (
    draw_weights,
    read_weights,
    resolve_paper_sources,
    resolve_scales,
    resolve_signs,
    resolve_sources,
    resolve_widths,
    root_scales,
    root_widths,
    theorem_scales,
    theorem_sources,
    theorem_widths,
)

DENSE = [[0], [0, 1], [0, 1, 2]]


def refuses(message):
    return pytest.raises(ValueError, match=re.escape(message))


# Widths


@pytest.mark.parametrize(
    ("input_dim", "widths"),
    [
        (64, [8, 3, 2]),  # 8, 2.83, 1.68
        (1000, [32, 6, 2]),  # 31.6, 5.62, 2.37
        (4, [2, 2, 2]),  # 2, 1.41, 1.19
    ],
)
def test_root_widths_worked_by_hand(input_dim, widths):
    assert root_widths(input_dim, 3) == widths
    assert resolve_widths("roots", input_dim=input_dim, depth=3) == widths
    assert resolve_widths("roots", input_dim=input_dim, depth=1) == widths[:1]


def test_listed_widths_are_taken_as_they_are():
    assert resolve_widths([5, 5, 1], input_dim=5, depth=None) == [5, 5, 1]
    assert resolve_widths([5, 2], input_dim=9, depth=2) == [5, 2]


# Scales


def test_root_scales_worked_by_hand():
    # d = 256: divided by 256^(1/2) = 16, then by 256^(1/4) = 4, then by 256^(1/8) = 2
    assert root_scales(256, 4) == [1.0, 1 / 16, 1 / 64, 1 / 128]
    assert resolve_scales("roots", input_dim=256, depth=4) == [1.0, 1 / 16, 1 / 64, 1 / 128]


def test_ratio_gives_its_powers_and_a_list_itself():
    assert resolve_scales(0.5, input_dim=8, depth=3) == [1.0, 0.5, 0.25]
    assert resolve_scales(1, input_dim=8, depth=2) == [1.0, 1.0]
    assert resolve_scales([2, 0.1], input_dim=8, depth=2) == [2.0, 0.1]


# Sources


def test_every_layer_reads_all_lower_ones_by_default():
    assert resolve_sources(None, depth=3) == DENSE


def test_listed_sources_are_sorted():
    assert resolve_sources([[0], [1], [2, 0]], depth=3) == [[0], [1], [0, 2]]


def test_skip_leaves_out_the_second_layer_below():
    skips = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 2, 4]]
    assert resolve_sources("skip", depth=5) == skips
    assert resolve_paper_sources("skip", depth=5, constants=(3, 2)) == skips[1:]
    with refuses("sources must be 'skip' or lists of layers, got 'chain'."):
        resolve_sources("chain", depth=2)


# Theorem 1


def test_theorem_widths_worked_by_hand():
    # C = 2.5 and C_1 = 2: k_2 = 3 from d = 3^(2.5^4) = 4.3e18, and k_3 = 2 from d = 2^(2.5^5)
    assert theorem_widths(4 * 10**18, 3, constants=(2.5, 2)) == [2, 1]
    assert theorem_widths(5 * 10**18, 3, constants=(2.5, 2)) == [3, 1]
    # C > C_1 = 2, so k_2 < d^(1/2^4), which is 2 at d = 2^16
    assert theorem_widths(2**16, 4, constants=(2.001, 2)) == [1, 1, 1]


def test_theorem_scales_worked_by_hand():
    # d = 2^81: divided by d^(1/9) = 2^9, then by d^(1/27) = 2^3
    assert theorem_scales(2**81, 4, constants=(3, 2)) == pytest.approx(
        [1, 2**-9, 2**-12], rel=1e-14
    )


def test_deep_skip_condition_worked_by_hand():
    # without {2, ..., l - C_1}, and without l - 2
    close = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 5]]
    far = [[0], [1], [0, 2], [0, 1, 3], [0, 1, 2, 4], [0, 1, 3, 5]]
    assert theorem_sources(6, constants=(3, 2)) == close
    assert theorem_sources(6, constants=(5, 4)) == far
    assert resolve_paper_sources("theorem", depth=6, constants=(5, 4)) == far[1:]


# Signs


def test_positive_and_listed_signs():
    assert [row.tolist() for row in resolve_signs("positive", widths=[3, 1], seed=0)] == [
        [1.0, 1.0, 1.0],
        [1.0],
    ]
    listed = resolve_signs([[1, -1], [-1]], widths=[2, 1], seed=0)
    assert [row.tolist() for row in listed] == [[1.0, -1.0], [-1.0]]
    assert all(row.dtype == torch.float64 for row in listed)


def test_random_signs_are_fair_coins_of_their_seed():
    first, second = resolve_signs("random", widths=[2000, 2000], seed=5)
    for row in (first, second):
        assert set(row.tolist()) == {-1.0, 1.0}
        assert stats.binomtest(int((row > 0).sum()), 2000).pvalue > 1e-3
    assert stats.binomtest(int((first == second).sum()), 2000).pvalue > 1e-3
    assert torch.equal(first, resolve_signs("random", widths=[2000], seed=5)[0])
    assert not torch.equal(first, resolve_signs("random", widths=[2000], seed=6)[0])


# Weights


def test_weights_are_drawn_for_every_source_and_nothing_else():
    weights = draw_weights([6, 4, 3, 2], [[0], [1], [0, 2]], singular_values=(1.0, 1.0), seed=0)
    assert {key: tuple(matrix.shape) for key, matrix in weights.items()} == {
        (1, 0): (4, 6),
        (2, 1): (3, 4),
        (3, 0): (2, 6),
        (3, 2): (2, 3),
    }


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


def test_read_weights_belong_to_the_sources_in_their_order():
    weights = [[[[1.0, 2.0]]], [[[3.0, 4.0]], [[5.0]]]]
    read = read_weights(weights, [2, 1, 1], [[0], [0, 1]])
    assert {key: matrix.tolist() for key, matrix in read.items()} == {
        (1, 0): [[1.0, 2.0]],
        (2, 0): [[3.0, 4.0]],
        (2, 1): [[5.0]],
    }
