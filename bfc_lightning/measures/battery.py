"""All measures of a learner at one step of a run, on a fixed sample."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.activations import Quadratic
from bfc_lightning.labels import Classification, Labels, Regression
from bfc_lightning.measures.features import (
    LayerMeasure,
    Leakage,
    Probe,
    Richness,
    blocks,
    consumed_leakage,
    named_probes,
    weight_leakage,
)
from bfc_lightning.measures.forms import form_error, learner_form, target_form
from bfc_lightning.measures.functions import Polynomials, function_error
from bfc_lightning.measures.levels import (
    level_shares,
    named_shares,
    output_errors,
    truncation_errors,
    varying,
)
from bfc_lightning.measures.ntk import empirical_ntk, kernel_drift
from bfc_lightning.networks import DenseNet
from bfc_lightning.targets import HierarchicalTarget, LayeredTarget, Target

NUM_KERNEL_POINTS = 256


@dataclass
class MeasureSample:
    """Fixed points and the quantities that do not depend on the state of the learner.

    Attributes:
        inputs: x, float64.
        arguments: the argument of the target at x: x, or P x for classification.
        levels: the levels of the signal, `Labels.level_signals`.
        preactivations: S_1..S_L at `arguments`, empty if the target has no layers.
        features: G_1..G_L at `arguments`, empty if the target has no layers.
        target: G, float64, on the device of the sample.
        labels: the labels, on the device of the sample.
        kernel: the tangent kernel of the untrained learner at scale 1 on the first 256 points.
        polynomials: for each level l with a layer, the polynomials of degree <= 2^(l-1), or None if
            there are too many. Empty for classes, for a linearized learner and for a target without
            layers.
        layer_measures: the measures of `feature_measures`, by name: a probe per learner layer, and
            one of each other kind per target level. Empty lists if the target has no layers.
        untrained: for each layer of the untrained learner, its probe residuals by level.
    """

    inputs: Float[Tensor, "n d"]
    arguments: Float[Tensor, "n d"]
    levels: Float[Tensor, "n one_plus_levels"]
    preactivations: list[Float[Tensor, "n _k"]]
    features: list[Float[Tensor, "n _k"]]
    target: Target
    labels: Labels
    kernel: Float[Tensor, "points points"]
    polynomials: list[Polynomials | None]
    layer_measures: dict[str, Sequence[LayerMeasure]]
    untrained: list[list[float]] = field(default_factory=list)


@dataclass
class Snapshot:
    """A learner at one step of a run, evaluated on a fixed sample.

    Attributes:
        network: the learner, float64.
        sample: the points.
        prediction: f(x) at `sample.inputs`.
        outputs: the contributions of the active layers to f, as columns.
        kernel: the tangent kernel on the first 256 points.
        layer_results: the results of `sample.layer_measures` for the active layers.
    """

    network: DenseNet
    sample: MeasureSample
    prediction: Float[Tensor, " n"]
    outputs: Float[Tensor, "n layers"]
    kernel: Float[Tensor, "points points"]
    layer_results: dict[str, list[Any]]

    @cached_property
    def preactivations(self) -> list[Float[Tensor, "n _m"]]:
        """Z_l of the active layers at `sample.arguments`, float64."""
        return self.network.preactivations(self.sample.arguments)

    @cached_property
    def features(self) -> list[Float[Tensor, "n _m"]]:
        """F_l of the active layers at `sample.arguments`, float64."""
        return self.network.features(self.sample.arguments)


class Measure(ABC):
    """Base class of user-defined measures; see docs/extending.md.

    It is evaluated together with the built-in measures, on the same points.
    """

    @abstractmethod
    def __call__(self, snapshot: Snapshot) -> Mapping[str, float]:
        """Returns numbers by the name under which they are logged. It modifies nothing."""


def take_sample(
    inputs: Float[Tensor, "n d"], target: Target, labels: Labels, untrained: DenseNet
) -> MeasureSample:
    """Computes all quantities of a sample that are needed once per run.

    Args:
        inputs: x, float64.
        target: G, float64, on the device of `inputs`.
        labels: the labels, on the device of `inputs`.
        untrained: the learner before its first step.
    """
    network = copy.deepcopy(untrained)
    network.active_depth = network.depth
    arguments = labels.target_argument(inputs)
    preactivations: list[Tensor] = []
    features: list[Tensor] = []
    if isinstance(target, LayeredTarget):
        preactivations = target.preactivations(arguments)
        features = target.features(arguments)
    sample = MeasureSample(
        inputs=inputs,
        arguments=arguments,
        levels=labels.level_signals(target, inputs),
        preactivations=preactivations,
        features=features,
        target=target,
        labels=labels,
        kernel=_kernel(network.rescaled(1.0), arguments),
        polynomials=[
            Polynomials.on(inputs, degree=2**level)
            for level in range(min(len(features), network.depth, len(target.level_scales)))
        ]
        if isinstance(labels, Regression) and not network.is_linearized
        else [],
        layer_measures={
            "leakage": [Leakage(level) for level in preactivations],
            "probe": [Probe(features)] * network.depth if features else [],
            "richness": [Richness(level) for level in preactivations],
        },
    )
    sample.untrained = take_snapshot(network, sample).layer_results["probe"]
    return sample


@torch.no_grad()
def take_snapshot(network: DenseNet, sample: MeasureSample) -> Snapshot:
    """Evaluates the learner on a sample.

    The learner runs in its own precision, as in validation. Sums over points are float64, except
    in `Richness`, whose blocks are summed in the precision of the learner.
    In float32, a residual v has a relative error of about 3e-7 / sqrt(v).

    Args:
        network: the learner, in any precision, on any device. It is not modified.
        sample: the points.
    """
    exact = copy.deepcopy(network).to(sample.inputs).requires_grad_(False)
    exact.cut = "none"
    learner = network if network.constant.device == sample.inputs.device else exact
    readers = {
        name: [copy.copy(measure) for measure in measures[: network.active_depth]]
        for name, measures in sample.layer_measures.items()
    }
    predictions, outputs = [], []
    for at in blocks(len(sample.inputs)):
        argument = sample.arguments[at].to(learner.constant)
        preactivations, features = learner.activate(argument)
        if sample.arguments is sample.inputs:
            predictions.append(learner.read_out(argument, features))
        else:
            predictions.append(learner(sample.inputs[at].to(argument)))
        outputs.append(torch.stack(learner.layer_outputs(features), dim=1))
        for name, measures in readers.items():
            layers = preactivations if name == "leakage" else features
            for measure, rows in zip(measures, layers, strict=False):
                measure.read(rows, at)
    return Snapshot(
        exact,
        sample,
        torch.cat(predictions).to(sample.inputs),
        torch.cat(outputs).to(sample.inputs),
        _kernel(learner, sample.arguments),
        {name: [each.result().tolist() for each in readers[name]] for name in readers},
    )


def _kernel(network: DenseNet, arguments: Float[Tensor, "n d"]) -> Float[Tensor, "points points"]:
    """The tangent kernel, computed in the precision and on the device of the learner."""
    points = arguments[:NUM_KERNEL_POINTS].to(network.constant)
    return empirical_ntk(network, points).to(arguments)


def reference_levels(sample: MeasureSample) -> dict[str, float]:
    """Reference values that are constant during a run.

    `reference/without_last_level` is the least error of a combination of all levels but the last,
    each with a factor of its own. It is their sum's error if levels are uncorrelated, else less.
    For classes, `reference/truncated_error_l` is the error of the score truncated after level l.
    `features/residual_l_untrained` is `features/residual_l` of the untrained learner.
    """
    named = named_shares(sample.levels[:, 1:])
    if isinstance(sample.labels, Classification):
        errors = truncation_errors(sample.levels).tolist()
        named |= {f"reference/truncated_error_{level}": error for level, error in enumerate(errors)}
        named["reference/without_last_level"] = errors[-2]
    else:
        named["reference/without_last_level"] = float(level_shares(sample.levels[:, 1:])[-1])
    for level, residuals in enumerate(sample.untrained[: len(sample.features)], start=1):
        named[f"features/residual_{level}_untrained"] = residuals[level - 1]
    return named


def output_measures(snapshot: Snapshot) -> dict[str, float]:
    """`levels/nmse` and `levels/residual_l`: the parts of the target that are missing in f.

    They are undefined for a classifier, which learns only the sign of its score. A level that does
    not contribute to G has no residual.
    """
    sample = snapshot.sample
    if isinstance(sample.labels, Classification):
        return {}
    return output_errors(snapshot.prediction, sample.levels, sample.target.variance)


def feature_measures(snapshot: Snapshot) -> dict[str, float]:
    """`features/residual_l`, `probe_i_j`, `leakage_l` and `richness_l`; see `measures.features`.

    Richness is absent if it is undefined. A target without layers has none of them.
    """
    named = named_probes(snapshot.layer_results["probe"])
    for name in ("leakage", "richness"):
        for level, value in enumerate(snapshot.layer_results[name], start=1):
            if name == "leakage" or not math.isnan(value):
                named[f"features/{name}_{level}"] = value
    return named


def weight_measures(snapshot: Snapshot) -> dict[str, float]:
    """`features/leakage_weights_1` and `features/consumed_leakage_1`; see `measures.features`.

    The consumed leakage of a perfect learner is certain to be 0 only if every sign of the target is
    positive, the learner's readout was initialized to +1 and layer 1 is quadratic. Otherwise it is
    not measured. A trained readout may become negative, so it enters with its absolute value.
    """
    target, layers = snapshot.sample.target, snapshot.network.active_layers()
    if not isinstance(target, HierarchicalTarget):
        return {}
    seen, wanted = layers[0].block(0), target.weight(1, 0)
    named = {"features/leakage_weights_1": float(weight_leakage(seen, wanted))}
    is_form = (
        target.has_positive_signs
        and snapshot.network.positive_readout
        and isinstance(layers[0].activation, Quadratic)
    )
    if is_form and len(layers) > 1:
        consumed = consumed_leakage(seen, layers[1].block(1), layers[1].readout, wanted)
        named["features/consumed_leakage_1"] = float(consumed)
    return named


def function_measures(snapshot: Snapshot) -> dict[str, float]:
    """Comparison of the contribution of each layer to f with that of the same level to G.

    `levels/function_error_l` compares the functions, and `levels/function_error_projected_l`
    compares them after projecting off all polynomials of degree <= 2^(l-1); see
    `measures.functions`. Both are absent for a level that does not contribute to G.
    `features/form_error_1` compares the quadratic forms of layer 1 and level 1 if the activations
    of both are quadratic. None is defined for classes, for a linearized learner and for a target
    without layers.
    """
    sample, network = snapshot.sample, snapshot.network
    named: dict[str, float] = {}
    if not sample.polynomials:
        return named
    outputs = sample.levels[:, 1:]
    levels = zip(snapshot.outputs.T, outputs.T, sample.polynomials, varying(outputs), strict=False)
    for level, (learned, wanted, polynomials, varies) in enumerate(levels, start=1):
        if not varies:
            continue
        named[f"levels/function_error_{level}"] = float(function_error(learned, wanted))
        if polynomials is not None:
            error = float(polynomials.function_error(learned, wanted))
            if not math.isnan(error):
                named[f"levels/function_error_projected_{level}"] = error
    quadratic = isinstance(network.active_layers()[0].activation, Quadratic)
    if quadratic and isinstance(sample.target, HierarchicalTarget):
        forms = learner_form(network), target_form(sample.target)
        named["features/form_error_1"] = float(form_error(*forms))
    return named


def kernel_measures(snapshot: Snapshot) -> dict[str, float]:
    """`ntk/drift`: the distance of the tangent kernel from that of the initialization.

    The reference is the initialization at scale 1, independent of `init_scale`. At a small scale,
    the kernel of the initialization is dominated by the biases, and any training would count as
    drift. See `measures.ntk`.
    """
    return {"ntk/drift": float(kernel_drift(snapshot.kernel, snapshot.sample.kernel))}


MEASURES: tuple[Callable[[Snapshot], Mapping[str, float]], ...] = (
    output_measures,
    feature_measures,
    weight_measures,
    function_measures,
    kernel_measures,
)


@dataclass(frozen=True)
class Battery:
    """What is measured for one kind of learner, with the signatures of `DENSE`."""

    take_sample: Callable[..., Any]
    take_snapshot: Callable[..., Any]
    references: Callable[[Any], dict[str, float]]
    measures: tuple[Callable[[Any], Mapping[str, float]], ...]


DENSE = Battery(take_sample, take_snapshot, reference_levels, MEASURES)
