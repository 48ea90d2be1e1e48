"""What all targets share: they follow their seed, and their moments are those of their inputs."""

import pytest
import torch
from reference import standard_errors_off

from bfc_lightning.inputs import Gaussian, Hypercube
from bfc_lightning.seeds import generator
from bfc_lightning.targets import (
    DepthSeparation,
    HierarchicalTarget,
    PaperTarget,
    QuadraticFeature,
    RichRepresentation,
    Sight,
    SingleIndex,
    Staircase,
)

DRAWN = {
    "hierarchical": lambda seed: HierarchicalTarget(Gaussian(6), [4, 4], seed=seed),
    "raw": lambda seed: HierarchicalTarget(Gaussian(6), [3, 2], normalize=False, seed=seed),
    "paper": lambda seed: PaperTarget(Gaussian(6), [2, 2], seed=seed),
    "rich": lambda seed: RichRepresentation(Gaussian(6), basis="random", seed=seed),
    "single index": lambda seed: SingleIndex(Gaussian(6), seed=seed),
    "quadratic feature": lambda seed: QuadraticFeature(Gaussian(6), seed=seed),
    "depth separation": lambda seed: DepthSeparation(Gaussian(6), seed=seed),
    "sight": lambda seed: Sight(Gaussian(9), seed=seed),
}
FIXED = {"staircase": lambda seed: Staircase(Hypercube(5), depth=4, level_scales=0.5, seed=seed)}


@pytest.mark.parametrize("name", DRAWN)
def test_same_seed_gives_the_same_target_and_another_seed_another(name, few_moments):
    before = torch.get_rng_state()
    first, again, other, none, zero = (DRAWN[name](seed) for seed in (4, 4, 5, None, 0))
    assert torch.equal(before, torch.get_rng_state())
    x = first.inputs.sample(10, generator(0, "seed test"))
    for one, same in ((first, again), (none, zero)):
        assert torch.equal(one(x), same(x))
        assert torch.equal(one.variance, same.variance)
    assert not torch.allclose(first(x), other(x), rtol=1e-3)


@pytest.mark.parametrize("name", [*DRAWN, *FIXED])
def test_stored_moments_are_those_of_fresh_samples(name):
    target = {**DRAWN, **FIXED}[name](1)
    values = target(target.inputs.sample(2**15, generator(0, "fresh")))
    # n = 2^15; the stored moments rest on 2^17 samples: half a standard error more
    assert float(standard_errors_off(values, target.mean)) < 5
    assert float(standard_errors_off((values - target.mean) ** 2, target.variance)) < 5
