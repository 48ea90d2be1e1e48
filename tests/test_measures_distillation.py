"""Measures of the learner with distillation."""

import pytest
import torch

from bfc_lightning.measures.distillation import gram_gap, procrustes
from tests.tensors import draw


def test_procrustes_distance_is_invariant_under_rotations():
    wanted, learned = draw(200, 3), draw(200, 3, seed=1)
    rotation = torch.linalg.qr(draw(3, 3, seed=2))[0]
    assert float(procrustes(wanted, wanted @ rotation)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        procrustes(wanted, learned), procrustes(wanted @ rotation, learned @ rotation.T)
    )


def test_procrustes_distance_is_the_least_over_rotations_of_the_plane():
    wanted, learned = draw(200, 2), draw(200, 2, seed=1)
    angle = torch.linspace(0, 2 * torch.pi, 5001, dtype=torch.float64)
    distances = []
    for a in angle:
        for sign in (1.0, -1.0):
            u = torch.tensor([[a.cos(), -sign * a.sin()], [a.sin(), sign * a.cos()]])
            distances.append((wanted - learned @ u.double().T).square().sum(1).mean())
    assert float(procrustes(wanted, learned)) == pytest.approx(float(min(distances)), rel=1e-5)


def test_features_of_other_widths_are_padded():
    wanted = draw(200, 2)
    wider = torch.nn.functional.pad(wanted, (0, 2))
    assert float(procrustes(wanted, wider)) == pytest.approx(0, abs=1e-12)
    nothing = torch.zeros(200, 1, dtype=torch.float64)
    assert float(procrustes(wanted, nothing)) == pytest.approx(float((wanted**2).sum(1).mean()))


def test_gram_gap_sees_neither_rotations_nor_the_number_of_rows():
    wide = torch.linalg.qr(draw(6, 2))[0] @ draw(2, 4, seed=1)
    narrow = torch.linalg.qr(wide)[1]
    assert float(gram_gap(narrow, wide)) == pytest.approx(0, abs=1e-12)
    assert float(gram_gap(torch.zeros(2, 4).double(), wide)) == 1
