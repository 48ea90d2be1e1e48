"""Objectives: the loss that is minimized, the score that is reported, the weight penalty."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.labels import Classification, Labels, Regression
from bfc_lightning.measures import classification_error, normalized_mse
from bfc_lightning.networks import DenseNet
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch


def regression_loss(
    prediction: Float[Tensor, " n"], label: Float[Tensor, " n"], *, label_variance: float | Tensor
) -> Float[Tensor, ""]:
    """E (f - y)^2 / Var(y).

    Var(y) is a constant of the target, so that learning rates carry over between targets.

    Source: ours.

    Args:
        prediction: f(x).
        label: y.
        label_variance: Var(y), noise included; a scalar.

    Returns:
        The mean over the samples; 1 for the best constant.
    """
    return nn.functional.mse_loss(prediction, label) / label_variance


def classification_loss(
    prediction: Float[Tensor, " n"],
    label: Float[Tensor, " n"],
    *,
    target_variance: float | Tensor,
    temperature: float,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the logit f / (temperature Var(G)^(1/2)).

    A low temperature makes examples near the boundary count.

    Source: Allen-Zhu and Li, arXiv 2001.04413, classification; the temperature is ours.

    Args:
        prediction: f(x).
        label: y in {0, 1}.
        target_variance: Var(G); a scalar.
        temperature: positive.

    Returns:
        The mean over the samples, in nats.
    """
    logit = prediction / (temperature * target_variance**0.5)
    return nn.functional.binary_cross_entropy_with_logits(logit, label)


def regression_slope(
    prediction: Float[Tensor, "*rest n"],
    label: Float[Tensor, "*rest n"],
    *,
    label_variance: float | Tensor,
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest n"]]:
    """`regression_loss` and its derivative by each prediction, 2 (f - y) / (n Var(y)).

    Source: ours.

    Args:
        prediction: f(x).
        label: y.
        label_variance: Var(y); a scalar, or one number for each leading index, shape (..., 1).

    Returns:
        The loss and the derivatives.
    """
    error = prediction - label
    slope = error * (2 / (label_variance * label.shape[-1]))
    return torch.linalg.vecdot(error, slope) / 2, slope


def classification_slope(
    prediction: Float[Tensor, "*rest n"],
    label: Float[Tensor, "*rest n"],
    *,
    target_variance: float | Tensor,
    temperature: float,
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest n"]]:
    """`classification_loss` and its derivative by each prediction, with s = T Var(G)^(1/2).

        (sigmoid(f/s) - y) / (n s)

    Source: ours.

    Args:
        prediction: f(x).
        label: y in {0, 1}.
        target_variance: Var(G); a scalar, or one number for each leading index, shape (..., 1).
        temperature: T, positive.

    Returns:
        The loss and the derivatives.
    """
    scale = temperature * target_variance**0.5
    logit = prediction / scale
    loss = nn.functional.softplus(logit) - label * logit
    return loss.mean(-1), (logit.sigmoid() - label) / (scale * label.shape[-1])


def weight_penalty(network: DenseNet, coefficients: Sequence[float]) -> Float[Tensor, ""]:
    """sum_l lambda_l sum_j |V_{l,j}|_F^2 over the active layers: no biases, no readout.

    Source: the lambda_6 part of the regularizer of Allen-Zhu and Li, arXiv 2001.04413. Its other
    parts, with lambda_3 to lambda_5, tie the wide weights W of a layer to their narrow distillate
    K; a `DenseNet` has no K.

    Args:
        network: the learner.
        coefficients: lambda_l, one a layer.

    Returns:
        A scalar.
    """
    penalty = network.constant.new_zeros(())
    active = network.active_layers()
    for coefficient, layer in zip(coefficients[: len(active)], active, strict=True):
        penalty = penalty + coefficient * layer.weight.square().sum()
    return penalty


class Objective(ABC):
    """What a kind of labels asks of the learner: a loss to minimize and a score to report.

    Attributes:
        score_name: the score's name in the logs, `nmse` or `error`.
    """

    score_name: str

    @abstractmethod
    def loss(
        self, prediction: Float[Tensor, " n"], batch: Batch, progress: float = 0.0
    ) -> Float[Tensor, ""]:
        """The training loss of predictions on a batch, without the penalty.

        Args:
            prediction: f(x).
            batch: the samples.
            progress: the part of the phase that is done, from 0 to 1.

        Returns:
            A scalar.
        """

    @property
    @abstractmethod
    def variance(self) -> float:
        """The variance by which the loss is scaled: Var(y), or Var(G) for classes."""

    @abstractmethod
    def loss_and_slope(
        self,
        prediction: Float[Tensor, "*r n"],
        label: Float[Tensor, "*r n"],
        progress: float = 0.0,
        variance: float | Float[Tensor, "r 1"] | None = None,
    ) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r n"]]:
        """`loss` together with its derivative by each prediction, for gradients by hand.

        Args:
            prediction: f(x), of one learner, or of several on labels of their own.
            label: y.
            progress: the part of the phase that is done, from 0 to 1.
            variance: those of the several learners; the objective's own where not given.

        Returns:
            One number a learner, and one a sample.
        """

    @abstractmethod
    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The error against the noise-free signal of the batch; 0 is perfect."""


class RegressionObjective(Objective):
    """`regression_loss`, scored by `normalized_mse`.

    Args:
        target: G, for its variance; stays on the CPU, so that reading it waits for no device.
        labels: for the noise.
    """

    score_name = "nmse"

    def __init__(self, target: Target, labels: Regression) -> None:
        self.target = target
        self.labels = labels

    def loss(
        self, prediction: Float[Tensor, " n"], batch: Batch, progress: float = 0.0
    ) -> Float[Tensor, ""]:
        """E (f - y)^2 / Var(y), the same all through the run."""
        return regression_loss(prediction, batch.labels, label_variance=self.variance)

    @property
    def variance(self) -> float:
        """Var(y)."""
        return float(self.labels.label_variance(self.target))

    def loss_and_slope(
        self,
        prediction: Float[Tensor, "*r n"],
        label: Float[Tensor, "*r n"],
        progress: float = 0.0,
        variance: float | Float[Tensor, "r 1"] | None = None,
    ) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r n"]]:
        """`regression_slope`."""
        scale = self.variance if variance is None else variance
        return regression_slope(prediction, label, label_variance=scale)

    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """E (f - G)^2 / Var(G)."""
        return normalized_mse(prediction, batch.signal, float(self.target.variance))


class ClassificationObjective(Objective):
    """`classification_loss`, scored by `classification_error`.

    The temperature may fall geometrically over each phase: warm, the loss shapes the whole score;
    cold, it attends to the examples near the boundary, which decide the error.

    Args:
        target: G, for its variance.
        temperature: T_0, of the logit, positive.
        final_temperature: T_1, at the end of the phase; T_0 where not given.

    Raises:
        ValueError: if a temperature is not positive.
    """

    score_name = "error"

    def __init__(
        self, target: Target, temperature: float, final_temperature: float | None = None
    ) -> None:
        final = temperature if final_temperature is None else final_temperature
        for name, value in (("temperature", temperature), ("final_temperature", final)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        self.target = target
        self.temperature = temperature
        self.final_temperature = final

    def temperature_at(self, progress: float) -> float:
        """T_0 (T_1/T_0)^p at progress p."""
        ratio = self.final_temperature / self.temperature
        return self.temperature * float(ratio**progress)

    def loss(
        self, prediction: Float[Tensor, " n"], batch: Batch, progress: float = 0.0
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy of f / (T(p) Var(G)^(1/2))."""
        return classification_loss(
            prediction,
            batch.labels,
            target_variance=self.variance,
            temperature=self.temperature_at(progress),
        )

    @property
    def variance(self) -> float:
        """Var(G)."""
        return float(self.target.variance)

    def loss_and_slope(
        self,
        prediction: Float[Tensor, "*r n"],
        label: Float[Tensor, "*r n"],
        progress: float = 0.0,
        variance: float | Float[Tensor, "r 1"] | None = None,
    ) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r n"]]:
        """`classification_slope` at the temperature of this moment."""
        return classification_slope(
            prediction,
            label,
            target_variance=self.variance if variance is None else variance,
            temperature=self.temperature_at(progress),
        )

    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The share of samples put into the wrong class."""
        return classification_error(prediction, batch.signal)


def objective_for(
    target: Target, labels: Labels, *, temperature: float, final_temperature: float | None = None
) -> Objective:
    """The objective that belongs to the labels.

    Args:
        target: G.
        labels: `Regression` or `Classification`.
        temperature: of the logit, for classification.
        final_temperature: the same at the end of the run; no change where not given.

    Returns:
        The objective.

    Raises:
        ValueError: if the labels are neither.
    """
    target.require_moments()
    if isinstance(labels, Classification):
        return ClassificationObjective(target, temperature, final_temperature)
    if isinstance(labels, Regression):
        return RegressionObjective(target, labels)
    raise ValueError(f"labels must be Regression or Classification, got {type(labels).__name__}.")
