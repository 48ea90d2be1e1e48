"""Objectives: the training loss, the reported score and the weight penalty."""

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

    Var(y) is a constant of the target, so that learning rates transfer between targets.

    Args:
        prediction: f(x).
        label: y.
        label_variance: Var(y), including the noise. A scalar.

    Returns:
        The mean over the samples. It is 1 for the best constant.
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

    A low temperature increases the weight of examples near the decision boundary.

    Source: Allen-Zhu and Li, arXiv 2001.04413, classification. The temperature is an addition.

    Args:
        prediction: f(x).
        label: y in {0, 1}.
        target_variance: Var(G), a scalar.
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
    """`regression_loss` and its gradient with respect to the predictions, 2 (f - y) / (n Var(y)).

    Args:
        prediction: f(x).
        label: y.
        label_variance: Var(y), a scalar, or one number per leading index with shape (..., 1).

    Returns:
        The loss and the gradient.
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
    """`classification_loss` and its gradient with respect to the predictions.

        (sigmoid(f/s) - y) / (n s),   s = T Var(G)^(1/2)

    Args:
        prediction: f(x).
        label: y in {0, 1}.
        target_variance: Var(G), a scalar, or one number per leading index with shape (..., 1).
        temperature: T, positive.

    Returns:
        The loss and the gradient.
    """
    scale = temperature * target_variance**0.5
    logit = prediction / scale
    loss = nn.functional.softplus(logit) - label * logit
    return loss.mean(-1), (logit.sigmoid() - label) / (scale * label.shape[-1])


def weight_penalty(network: DenseNet, coefficients: Sequence[float]) -> Float[Tensor, ""]:
    """sum_l lambda_l sum_j |V_{l,j}|_F^2 over the active layers, without biases and readouts.

    Source: the lambda_6 term of the regularizer of Allen-Zhu and Li, arXiv 2001.04413. The terms
    with lambda_3 to lambda_5 couple the wide weights W of a layer to their distilled weights K. A
    `DenseNet` has no K.

    Args:
        network: the learner.
        coefficients: lambda_l, one per layer.

    Returns:
        A scalar.
    """
    penalty = network.constant.new_zeros(())
    active = network.active_layers()
    for coefficient, layer in zip(coefficients[: len(active)], active, strict=True):
        penalty = penalty + coefficient * layer.weight.square().sum()
    return penalty


class Objective(ABC):
    """The loss and the score for one type of labels.

    Attributes:
        score_name: the name of the score in the logs, `nmse` or `error`.
    """

    score_name: str

    @abstractmethod
    def loss(
        self, prediction: Float[Tensor, " n"], batch: Batch, progress: float = 0.0
    ) -> Float[Tensor, ""]:
        """The training loss of a batch, without the weight penalty.

        Args:
            prediction: f(x).
            batch: the samples.
            progress: the completed fraction of the phase, from 0 to 1.

        Returns:
            A scalar.
        """

    @property
    @abstractmethod
    def variance(self) -> float:
        """The variance that scales the loss: Var(y) for regression, Var(G) for classification."""

    @abstractmethod
    def loss_and_slope(
        self,
        prediction: Float[Tensor, "*r n"],
        label: Float[Tensor, "*r n"],
        progress: float = 0.0,
        variance: float | Float[Tensor, "r 1"] | None = None,
    ) -> tuple[Float[Tensor, "*r"], Float[Tensor, "*r n"]]:
        """`loss` and its gradient with respect to the predictions.

        Args:
            prediction: f(x) of one learner, or of several learners on their own labels.
            label: y.
            progress: the completed fraction of the phase, from 0 to 1.
            variance: the variance of each learner. Defaults to the variance of this objective.

        Returns:
            One loss per learner, and one derivative per sample.
        """

    @abstractmethod
    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The error with respect to the noise-free signal of the batch. 0 is perfect."""


class RegressionObjective(Objective):
    """`regression_loss`, with `normalized_mse` as the score.

    Args:
        target: G, which provides the variance. It stays on the CPU, so that reading the variance
            does not synchronize with a device.
        labels: the labels, which provide the noise.
    """

    score_name = "nmse"

    def __init__(self, target: Target, labels: Regression) -> None:
        self.target = target
        self.labels = labels

    def loss(
        self, prediction: Float[Tensor, " n"], batch: Batch, progress: float = 0.0
    ) -> Float[Tensor, ""]:
        """E (f - y)^2 / Var(y), independent of `progress`."""
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
    """`classification_loss`, with `classification_error` as the score.

    The temperature decays geometrically over each phase. At a high temperature, the loss depends on
    the whole score. At a low temperature, it depends on the examples near the boundary, which
    determine the error.

    Args:
        target: G, which provides the variance.
        temperature: T_0 of the logit, positive.
        final_temperature: T_1 at the end of the phase. Defaults to T_0.

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
        """`classification_slope` at the current temperature."""
        return classification_slope(
            prediction,
            label,
            target_variance=self.variance if variance is None else variance,
            temperature=self.temperature_at(progress),
        )

    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The fraction of misclassified samples."""
        return classification_error(prediction, batch.signal)


def objective_for(
    target: Target, labels: Labels, *, temperature: float, final_temperature: float | None = None
) -> Objective:
    """The objective for the type of the labels.

    Args:
        target: G.
        labels: `Regression` or `Classification`.
        temperature: temperature of the logit, for classification.
        final_temperature: temperature at the end of the phase. Defaults to `temperature`.

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
