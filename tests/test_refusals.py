"""Arguments that cannot be: each is refused with its name, what is allowed, and its value."""

import math
import re

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, RMSprop

import bfc_lightning as bfc
from bfc_lightning.distilled import DistilledNet
from bfc_lightning.distilled_settings import Distilled
from bfc_lightning.formulas import formula_of
from bfc_lightning.kernels.chains import quadratic_chain_ntk, relu_chain_ntk
from bfc_lightning.kernels.learner import readout_scales
from bfc_lightning.objectives import ClassificationObjective
from bfc_lightning.seeds import derive_seed, generator
from bfc_lightning.targets.specification import resolve_widths

TARGET = bfc.HierarchicalTarget(bfc.Gaussian(4), [2, 2])
STREAM = bfc.SampleStream(TARGET, num_shards=4)
FINITE = bfc.FiniteStream(STREAM, 8)


def gaussian(**arguments):
    return bfc.Gaussian(**{"input_dim": 3, **arguments})


def mixture(*weights):
    return bfc.GaussianMixture([bfc.Gaussian(2)] * 2, weights=weights)


def target(**arguments):
    return bfc.HierarchicalTarget(bfc.Gaussian(4), **{"widths": [2, 2], **arguments})


def paper(**arguments):
    return bfc.PaperTarget(bfc.Gaussian(4), **{"widths": [2, 2], **arguments})


def module(**arguments):
    return bfc.HierarchicalLearner(TARGET, bfc.Regression(TARGET.inputs), **arguments)


def data(**arguments):
    return bfc.HierarchicalData(TARGET, bfc.Regression(TARGET.inputs), **arguments)


def one_cycle(**arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    return bfc.OneCycle(optimizer, **{"total_steps": 9, **arguments})


def parities(dim, **arguments):
    return bfc.NestedParities(bfc.Hypercube(dim), **arguments)


def distilled(**arguments):
    settings = Distilled(**{"widths": 2, "noise": 0.3, **arguments})
    given = {"level_scales": [1.0, 0.5], "width": 7, "settings": settings}
    return DistilledNet(torch.ones(5).double(), [[1], [0, 2]], **given)


def formula(kind, **arguments):
    return formula_of(kind([torch.nn.Parameter(torch.zeros(2))], lr=0.1, **arguments))


def two_groups(parameters, lr):
    return SGD([{"params": each} for each in (parameters, torch.nn.Linear(1, 1).weight)], lr=lr)


def scales_of(widths, *, changed=None, **arguments):
    network = bfc.DenseNet(5, widths, **arguments)
    if changed is not None:
        network.dense_layers()[1].readout.data[changed] = 1
    return readout_scales(network)


# In a message, " ... " stands for any words.
REFUSED = [
    (lambda: bfc.Huber(0.0), "threshold must be positive, got 0.0."),
    # Inputs
    (lambda: gaussian(input_dim=0), "input_dim must be at least 1, got 0."),
    (lambda: gaussian(rotation="random"), "rotation must be 'haar' or 'identity', got 'random'."),
    (lambda: gaussian(condition_number=0.5), "condition_number must lie in [1, inf), got 0.5."),
    (lambda: gaussian(power_law_exponent=-1.0), "power_law_exponent must lie in [0, inf)"),
    (lambda: gaussian(eigenvalues=[1.0, 2.0]), "eigenvalues must be input_dim = 3 numbers, got 2."),
    (lambda: gaussian(eigenvalues=[1.0, 0.0, 2.0]), "eigenvalues must ... positive ... got 0.0"),
    (lambda: gaussian(condition_number=2.0, eigenvalues=[1.0] * 3), "at most one spectrum ... got"),
    (lambda: gaussian(mean=[1.0, 2.0]), "mean must be one number or input_dim = 3 numbers, got 2."),
    (lambda: mixture(0.5), "weights must be 2 positive numbers that sum to 1, got "),
    (lambda: mixture(1.5, -0.5), "weights must be 2 positive numbers that sum to 1, got "),
    (lambda: mixture(0.5, 0.4), "weights must be 2 positive numbers that sum to 1, got "),
    (lambda: mixture(math.nan, 1.0), "weights must be 2 positive numbers that sum to 1, got "),
    (lambda: bfc.GaussianMixture([]), "components must contain at least one Gaussian"),
    (lambda: bfc.GaussianMixture([*map(bfc.Gaussian, (2, 3))]), "components ... same input_dim"),
    (lambda: bfc.Hypercube(0), "input_dim must be at least 1, got 0."),
    # Targets
    (lambda: target(widths="roots"), "depth is required with widths: roots, got None."),
    (lambda: target(widths="wide"), "widths must be 'roots' or a list of numbers, got 'wide'."),
    (lambda: target(widths=[]), "widths must contain at least one number, got []."),
    (lambda: target(widths=[3, 0]), "widths must all be at least 1, got [3, 0]."),
    (lambda: target(widths=[3, 4]), "widths must not grow from input_dim = 4 upwards, got [3, 4]."),
    (lambda: target(depth=3), "depth must be ... 2 ... got 3."),
    (lambda: target(level_scales="practice"), "level_scales must be 'roots', a ratio or a list"),
    (lambda: target(level_scales=[1.0]), "level_scales must hold one number for each of the 2"),
    (lambda: target(level_scales=[1.0, 0.0]), "level_scales must all be positive, got [1.0, 0.0]."),
    (lambda: target(level_scales=0.0), "level_scales must all be positive, got 0.0."),
    (lambda: target(sources="chain"), "sources must be 'skip' or lists of layers, got 'chain'."),
    (lambda: target(sources=[[0]]), "sources must contain one list for each of the 2 ... got 1"),
    (lambda: target(sources=[[0], [0]]), "sources of layer 2 must contain 1, got [0]."),
    (lambda: target(sources=[[0], [1, 2]]), "sources of layer 2 must be distinct layers below it"),
    (lambda: target(sources=[[0], [1, 1]]), "sources of layer 2 must be distinct layers below it"),
    (lambda: target(sources=[[-1, 0], [1]]), "sources of layer 1 must be distinct layers below it"),
    (lambda: target(singular_values=(0.0, 1.0)), "singular_values must be ... got [0.0, 1.0]."),
    (lambda: target(singular_values=(2.0, 1.0)), "singular_values must be ... got [2.0, 1.0]."),
    (lambda: target(signs="negative"), "signs must be 'random', 'positive' or lists"),
    (lambda: target(signs=[[1, 1]]), "signs must be lists of +1 and -1 ... got [[1, 1]]."),
    (lambda: target(signs=[[1, 0], [1, 1]]), "signs must be lists of +1 and -1 ... got [[1, 0], "),
    (lambda: target(weights=[]), "weights must contain one matrix for each source of each layer"),
    (lambda: target(widths=[1], weights=[[[[1.0]]]]), "must have shape (1, 4), got (1, 1)."),
    (lambda: paper(kappa=0.5), "kappa must be at least 1 and finite, got 0.5."),
    (lambda: paper(signs="random"), "signs must be 'positive' or 'balanced', got 'random'."),
    (lambda: paper(constants=(2.0, 2.0)), "constants must be [C, C_1] with C > C_1 >= 2"),
    (lambda: paper(constants=(3.0, 1.5)), "constants must be [C, C_1] with C > C_1 >= 2"),
    (lambda: paper(constants=(math.nan, 2.0)), "constants must be [C, C_1] with C > C_1 >= 2"),
    (lambda: paper(widths="theorem"), "depth is required with widths: theorem, got None."),
    (lambda: paper(widths="theorem", depth=1), "depth must be at least 2, got 1."),
    (lambda: paper(widths="roots"), "widths must be 'theorem' or a list of numbers, got 'roots'."),
    (lambda: paper(widths=[2, 0]), "widths must all be at least 1, got [2, 0]."),
    (lambda: paper(widths=[2, 3]), "widths must not grow from input_dim = 4 upwards, got [2, 3]."),
    (lambda: paper(depth=2), "depth must be ... 3 ... got 2."),
    (lambda: paper(sources="dense"), "sources must be 'skip', 'theorem' or lists, got 'dense'."),
    (lambda: paper(sources=[[1]]), "sources must contain one list for each of the layers 2 to 3"),
    (lambda: paper(sources=[[0, 1], [0, 2]]), "sources of layer 2 must not contain 0, got [0, 1]."),
    (lambda: paper(sources=[[1], [1, 2]]), "sources of layer 3 must not contain 1, got [1, 2]."),
    (lambda: paper(sources=[[1], [2]]), "sources of layer 3 must contain another ... got [2]."),
    (lambda: paper(sources=[[1], [0]]), "sources of layer 3 must contain 2, got [0]."),
    (lambda: paper(level_scales=[1.0]), "level_scales must hold one number for each of the 2"),
    (lambda: paper(weights=[]), "weights must contain one matrix for each source of each layer"),
    (lambda: bfc.HardForKernels(bfc.Gaussian(4), depth=1), "depth must be at least 2, got 1."),
    (lambda: bfc.HardForTwoLayers(bfc.Gaussian(4), depth=1), "depth must be at least 2, got 1."),
    (lambda: bfc.HardForKernels(bfc.Gaussian(7), depth=4), "input_dim must be ... 8, got 7."),
    (lambda: bfc.RichRepresentation(bfc.Gaussian(1)), "input_dim must be at least 2, got 1."),
    (lambda: bfc.BackwardCorrection(bfc.Gaussian(3)), "input_dim must be at least 4, got 3."),
    (lambda: bfc.Sight(bfc.Gaussian(4), exponent=0.0), "exponent must lie in (0, 1], got 0.0"),
    (lambda: bfc.Sight(bfc.Gaussian(4), exponent=1.5), "exponent must lie in (0, 1], got 1.5"),
    (lambda: bfc.Staircase(bfc.Hypercube(4), depth=0), "depth must ... got 0."),
    (lambda: bfc.Staircase(bfc.Hypercube(4), depth=5), "depth must ... input_dim = 4, got 5."),
    (lambda: bfc.Staircase(bfc.Hypercube(4), level_scales=-1.0), "level_scales must all be pos"),
    (lambda: bfc.Staircase(bfc.Gaussian(4)), "inputs of a Staircase must be on the cube"),
    (lambda: bfc.SingleIndex(bfc.Gaussian(2), link="hermite_4"), "link must be ... 'hermite_4'."),
    (lambda: bfc.QuadraticFeature(bfc.Gaussian(2), link="hermite_4"), "link must be relu, herm"),
    (lambda: bfc.QuadraticFeature(bfc.Gaussian(1)), "input_dim must be at least 2, got 1."),
    (lambda: bfc.DepthSeparation(bfc.Gaussian(5)), "input_dim must be even, got 5."),
    (lambda: parities(15), "input_dim must be at least 16, got 15"),
    (lambda: bfc.NestedParities(bfc.Gaussian(16)), "inputs of a NestedParities ... on the cube"),
    (lambda: parities(16, beta=-1.0), "beta must be at least 0"),
    (lambda: parities(16, alpha=0.0), "alpha positive"),
    # Labels, objectives, samples
    (lambda: bfc.Classification(bfc.Gaussian(1)), "input_dim must be at least 2 for classific"),
    (lambda: bfc.Regression(bfc.Gaussian(2), noise_std=-0.1), "noise_std must be at least 0, got"),
    (lambda: ClassificationObjective(TARGET, 0.0), "temperature must be positive, got 0.0."),
    (lambda: bfc.SampleStream(TARGET, num_shards=0), "num_shards must be at least 1, got 0."),
    (lambda: bfc.FiniteStream(STREAM, 0), "num_train_samples must be at least 1, got 0."),
    (lambda: STREAM.batch("train", 0, 6), "batch_size must be ... num_shards = 4, got 6"),
    (lambda: STREAM.block(0, 2, 0), "batch_size must be a positive multiple"),
    (lambda: FINITE.batch("train", 0, -4), "batch_size must be a positive multiple"),
    (lambda: FINITE.block(0, 2, 6), "batch_size must be a positive multiple"),
    (lambda: STREAM.batch("test", 2**27, 4), "index must lie in [0, 2^29 / num_shards), got 134"),
    (lambda: data(num_shards=0), "num_shards must be at least 1, got 0"),
    (lambda: data(batch_size=30), "batch_size must be ... num_shards ... got 30"),
    (lambda: data(eval_batch_size=6), "eval_batch_size must be ... num_shards ... got 6"),
    (lambda: data(num_train_samples=0), "num_train_samples must be at least 1, got 0"),
    (lambda: data(num_test_samples=-1), "num_test_samples must be at least 1, got -1"),
    (lambda: data().check_processes(3), "multiple of the number of processes, 3, got 4"),
    # Learners
    (lambda: bfc.DenseNet(0, [2]), "input_dim must be at least 1, got 0."),
    (lambda: bfc.DenseNet(2, []), "width must be at least 1 in each of one or more ... got []."),
    (lambda: bfc.DenseNet(2, [3, 0]), "width must be at least 1 in each ... got [3, 0]."),
    (lambda: bfc.DenseNet(5, [4], init_scale=0.0), "init_scale must be positive and finite, got 0"),
    (lambda: module(width=[8]), "width must be one number or one for each of 2 layers, got [8]"),
    (lambda: module(width=0), "width must be at least 1"),
    (lambda: module(depth=0), "depth must be at least 1, got 0"),
    (lambda: module(regularization=-1.0), "regularization must be at least 0, got -1.0"),
    (lambda: module(activation=torch.sum), "activation must keep the shape (2, 128), got ()"),
    (lambda: module(activation=len), "activation must map tensors to tensors"),
    (lambda: module(linearized=True, regularization=0.1), "regularization must be 0 ... got 0.1"),
    (lambda: distilled(widths=0), "widths must be at least 1"),
    (lambda: distilled(widths=[2, 2, 2]), "one number or one for each of 2 layers"),
    (lambda: distilled(noise=0.0), "noise must be above 0"),
    (lambda: distilled(kappa=0.5), "kappa must be at least 1"),
    (lambda: distilled(lambda_4=-1.0), "lambda_4 must be at least 0"),
    # Optimizers, schedules and schemes
    (lambda: formula(RMSprop), "RMSprop is not SGD, Adam or AdamW"),
    (lambda: formula(type("Mine", (Adam,), {})), "Mine is not SGD, Adam or AdamW"),
    (lambda: formula(Adam, amsgrad=True), "Adam has amsgrad"),
    (lambda: formula(SGD, maximize=True), "SGD has maximize"),
    (lambda: formula(two_groups), "SGD has several groups of parameters"),
    (lambda: one_cycle(total_steps=None), "total_steps must be at least 1, got None."),
    (lambda: one_cycle(decay=0.5), "decay must be at least 1, got 0.5"),
    (lambda: one_cycle(warmup_fraction=-0.1), "warmup_fraction must lie in [0, 1), got -0.1."),
    (lambda: one_cycle(final_factor=-1.0), "final_factor must be pos"),
    (lambda: bfc.Progressive(0), "steps must be at least 1 ... got 0."),
    (lambda: bfc.Layerwise([5, 0]), "steps must be at least 1"),
    (lambda: bfc.Layerwise([5, 5]).phases(3, 9), "one for each of 3 phases, got [5, 5]."),
    (lambda: bfc.Layerwise().phases(3, 2), "trainer.max_steps must be at least 1 for each of 3"),
    (lambda: bfc.Joint(freeze={4: 1}).phases(3, 9), "must name layers 1 to 3, got 4."),
    (lambda: bfc.Joint(freeze={0: 1}).phases(3, 9), "must name layers 1 to 3, got 0."),
    (lambda: bfc.Joint(freeze={1: 9}).phases(3, 9), "steps below the run's 9, got 9."),
    (lambda: bfc.Joint(freeze={1: -1}), "freeze must ... at least 0, got"),
    (lambda: bfc.Progressive(5, control="freeze"), "control must be one of ... got freeze"),
    (lambda: bfc.Layerwise(5, control="restart"), "control must be one of ... got restart"),
    (lambda: bfc.FreezeBelow(0, 0), "first must be at least 1, got 0."),
    (lambda: bfc.FreezeBelow(2, 3), "scheme.depth must be between 0 and ... 2, got 3"),
    (lambda: bfc.FreezeBelow(2, -1), "scheme.depth must be between 0 and ... 2, got -1"),
    (lambda: bfc.FreezeBelow(1, 0, [5]).phases(2, 9), "one for each of 2 phases, got [5]."),
    (lambda: bfc.FreezeBelow(1, 0, []).phases(2, 9), "one for each of 2 phases, got []."),
    (lambda: bfc.FreezeBelow(1, 0, [5, 0]), "steps must be at least 1"),
    (lambda: bfc.PullBelow(1, 0.0), "pull must be positive and finite, got 0.0."),
    (lambda: bfc.PullBelow(1, math.nan), "pull must be positive and finite, got nan."),
    (lambda: bfc.PullBelow(2, 1.0).phases(2, 9), "less than the number of layers, 2, got 2."),
    (lambda: bfc.PullBelow(1, 1.0).phases(2, 1), "trainer.max_steps must be at least 1 for each"),
    # Kernels and baselines
    (lambda: quadratic_chain_ntk(torch.ones(1, 2), torch.ones(1, 2), 0), "depth must ... 1, got 0"),
    (lambda: relu_chain_ntk(torch.ones(1, 2), torch.ones(1, 2), 1, -1.0), "bias_std ... got -1"),
    (lambda: scales_of([4, 6], positive_readout=True), "width must be the same ... got [4, 6]"),
    (lambda: scales_of([4, 4], init_scale=0.1), "model.init_scale must be 1 ... got 0.1"),
    (lambda: scales_of([4, 4], changed=3), "readout must be ... 4 numbers with sum 2 in layer 2"),
    (lambda: scales_of([4], activation=bfc.Huber()), "activation must be Quadratic ... got Huber"),
    (lambda: bfc.KernelRidge("linear"), "kernel must be polynomial or rbf, got 'linear'"),
    (lambda: bfc.KernelRidge(ridge=0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.KernelRidge(degree=0), "degree must be positive, got 0"),
    (lambda: bfc.KernelRidge(bandwidth=math.nan), "bandwidth must be positive, got nan"),
    (lambda: bfc.RecursiveFeatureMachine(bandwidth=0.0), "bandwidth must be positive, got 0.0"),
    (lambda: bfc.RecursiveFeatureMachine(ridge=0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.RecursiveFeatureMachine(exponent=2.5), "exponent must lie in (0, 2], got 2.5"),
    (lambda: bfc.RecursiveFeatureMachine(iterations=0), "iterations must be at least 1, got 0"),
    (lambda: bfc.SequentialKernels(0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.SequentialKernels([1.0, -1.0]), "ridge must be positive, got [1.0, -1.0]"),
    (lambda: bfc.SequentialKernels([]), "ridge must be positive, got []"),
    (lambda: bfc.SequentialKernels(depth=0), "depth must be at least 1, got 0"),
    (lambda: bfc.SpectralMethod([]), "widths must be a list of at least one ... got []"),
    (lambda: bfc.SpectralMethod([2, 0]), "widths must be a list ... got [2, 0]"),
    (lambda: bfc.SpectralMethod(ridge=0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.SpectralMethod(kernel_ridge=-1.0), "kernel_ridge must be positive, got -1.0"),
    (lambda: bfc.SpectralMethod(refinements=-1), "refinements must be at least 0, got -1"),
    (lambda: bfc.LearnerNTK(0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.QuadraticChainNTK(depth=0), "depth must be at least 1, got 0"),
    (lambda: bfc.ReLUChainNTK(bias_std=-1.0), "bias_std must not be negative, got -1.0"),
    (lambda: bfc.RandomFeatures(width=0), "width must be at least 1, got 0"),
    (lambda: bfc.RandomFeatures(activation="tanh"), "activation must be relu or quadratic"),
    (lambda: bfc.RandomFeatures(ridge=-1.0), "ridge must be positive, got -1.0"),
    (lambda: bfc.TwoLayer(width=0), "width must be at least 1, got 0"),
    (lambda: bfc.TwoLayer(num_steps=0), "num_steps must be at least 1, got 0"),
    (lambda: bfc.ThreeLayer(width=-1), "width must be at least 1, got -1"),
    (lambda: bfc.SteppedThreeLayer(ridge=0.0), "ridge must be positive, got 0.0"),
    (lambda: bfc.TwoLayer(shares=[0.5, 0.6]), "shares must be 2 positive numbers ... got [0.5, 0"),
    (lambda: bfc.ThreeLayer(shares=[1.0]), "shares must be 2 positive numbers ... got [1.0]"),
    (lambda: bfc.SteppedThreeLayer(shares=[0.5, 0.5, 0.0]), "shares must be 3 positive numbers"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_argument_is_refused(make, message):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, message.split(" ... ")))):
        make()


INTEGERS = {
    "seed": derive_seed,
    "name of a seed": lambda value: generator(0, "layer", value),
    "input_dim": bfc.Gaussian,
    "width": lambda value: bfc.DenseNet(2, [value]),
    "depth": lambda value: relu_chain_ntk(torch.ones(1, 1), torch.ones(1, 1), value),
    "total_steps": lambda value: one_cycle(total_steps=value),
    "steps": lambda value: bfc.Layerwise([5, value]),
    "freeze": lambda value: bfc.Joint(freeze={1: value}),
    "index": lambda value: FINITE.batch("train", value, 8),
    "batch_size": lambda value: FINITE.batch("train", 0, 4 * value),
    "shard": lambda value: STREAM.batch("train", 0, 8, [value]),
    "start": lambda value: STREAM.block(value, 2, 8),
    "count": lambda value: FINITE.block(0, value, 8),
    " width": lambda value: resolve_widths([value], input_dim=4, depth=1),
    " depth": lambda value: resolve_widths([3] * 2, input_dim=4, depth=value),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_of_any_type_and_floats_are_none(name):
    INTEGERS[name](np.int64(2))
    for value in (2.0, np.float64(2)):
        with pytest.raises(ValueError, match=f"{name.strip()} must be an integer, got"):
            INTEGERS[name](value)
