"""Objectives: the training loss and the reported score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.labels import Classification, Labels, Regression
from bfc_lightning.learners import Learner
from bfc_lightning.matmul import FASTEST, Products
from bfc_lightning.measures.errors import classification_error, normalized_mse
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch

LossAndGrad = Callable[
    [Mapping[str, Tensor], Mapping[str, Tensor], Tensor, Tensor, float | Tensor],
    tuple[Tensor, dict[str, Tensor]],
]
"""(trained, fixed, x, y, scale) -> loss, gradients of the trained parameters by name."""


class Objective(ABC):
    """The loss and the score for one type of labels.

    Attributes:
        score_name: the name of the score in the logs, `nmse` or `error`.
    """

    score_name: str

    @abstractmethod
    def scales(self, progress: Sequence[float]) -> list[float]:
        """The only number in the loss that depends on the problem or on the training step.

        It is read from the target, which a checkpoint may replace.

        Args:
            progress: completed fractions of the phase, from 0 to 1.

        Returns:
            Var(y) for regression, T(p) Var(G)^(1/2) for classification, for each fraction.
        """

    @abstractmethod
    def loss(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        """The training loss of a batch, without the weight penalty.

        Args:
            prediction: f(x).
            label: y.
            scale: from `scales`.

        Returns:
            A scalar.
        """

    @abstractmethod
    def loss_and_grad(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """`loss` and its gradient with respect to the predictions.

        Args:
            prediction: f(x).
            label: y.
            scale: from `scales`.

        Returns:
            The loss, and one derivative per sample.
        """

    @abstractmethod
    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The error with respect to the noise-free signal of the batch. 0 is perfect."""


class RegressionObjective(Objective):
    """The mean squared error in units of Var(y), with `normalized_mse` as the score.

    Var(y) is a constant of the target, so that learning rates transfer between targets.

    Args:
        target: G, which provides the variance. It stays on the CPU, so that reading the variance
            does not synchronize with a device.
        labels: the labels, which provide the noise.
    """

    score_name = "nmse"

    def __init__(self, target: Target, labels: Regression) -> None:
        self.target = target
        self.labels = labels

    def scales(self, progress: Sequence[float]) -> list[float]:
        """Var(y), at any progress."""
        return [float(self.labels.label_variance(self.target))] * len(progress)

    def loss(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        """E (f - y)^2 / Var(y), which is 1 for the best constant."""
        return nn.functional.mse_loss(prediction, label) / scale

    def loss_and_grad(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """`loss` and 2 (f - y) / (n Var(y))."""
        error = prediction - label
        grad = error * (2 / (scale * label.shape[0]))
        return torch.dot(error, grad) / 2, grad

    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """E (f - G)^2 / Var(G)."""
        return normalized_mse(prediction, batch.signal, float(self.target.variance))


class ClassificationObjective(Objective):
    """Binary cross-entropy, with `classification_error` as the score.

    Source: Allen-Zhu and Li, arXiv 2001.04413, classification. The temperature is an addition.

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

    def scales(self, progress: Sequence[float]) -> list[float]:
        """T(p) Var(G)^(1/2)."""
        std = float(self.target.variance) ** 0.5
        return [std * self.temperature_at(each) for each in progress]

    def loss(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy of the logit f / s in nats, s the scale."""
        return nn.functional.binary_cross_entropy_with_logits(prediction / scale, label)

    def loss_and_grad(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """`loss` and (sigmoid(f/s) - y) / (n s)."""
        logit = prediction / scale
        grad = (logit.sigmoid() - label) / (scale * label.shape[0])
        return (nn.functional.softplus(logit) - label * logit).mean(), grad

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


def learner_loss(
    network: Learner,
    objective: Objective,
    *,
    products: Products = FASTEST,
) -> LossAndGrad:
    """The training loss of a learner, as a pure function of its parameters.

    Args:
        network: the learner. Its active layers are those of the function.
        objective: the loss of its predictions.
        products: see `Learner.output_and_vjp`.

    Returns:
        A function of the trained parameters and all other tensors by name, of x, y and the scale.
        It returns the loss with the penalty and the gradients of the trained parameters.
    """

    def loss_and_grad(
        trained: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        scale: float | Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parameters = {**trained, **fixed}
        prediction, vjp = network.output_and_vjp(parameters, x, trained, products=products)
        loss, grad = objective.loss_and_grad(prediction, y, scale)
        gradients = vjp(grad)
        if network.is_penalized:
            loss = loss + network.weight_penalty(parameters)
            for name, own in network.penalty_grad(parameters, trained).items():
                gradients[name] = gradients[name] + own
        return loss, gradients

    return loss_and_grad


@torch.no_grad()
def objective_with_penalty(
    network: Learner, objective: Objective, x: Float[Tensor, "n d"], y: Float[Tensor, " n"]
) -> float:
    """E (F - y)^2 + Reg on a sample, in the units of y^2. For regression.

    Args:
        network: the learner.
        objective: the objective, whose scale is Var(y).
        x: the inputs.
        y: the labels.

    Returns:
        The value.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    [variance] = objective.scales([0.0])
    error = (network(x) - y).square().mean()
    return float(error + variance * network.weight_penalty(tensors))
