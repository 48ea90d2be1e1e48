"""Objectives: the training loss and the reported score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.labels import Classification, Labels, Regression
from bfc_lightning.learners import Learner
from bfc_lightning.matmul import Product, matmul
from bfc_lightning.measures.errors import classification_error, normalized_mse
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch, check_positive

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

        It is read from the target, which a checkpoint may replace, for each of the given completed
        fractions of the phase.
        """

    @abstractmethod
    def loss_and_grad(
        self,
        prediction: Float[Tensor, "n *k"],
        label: Float[Tensor, "n *k"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "n *k"]]:
        """The training loss, without the weight penalty, and its gradient in the predictions.

        Args:
            prediction: f(x).
            label: y.
            scale: from `scales`.

        Returns:
            The loss, which autograd can differentiate, and one derivative per number.
        """

    @abstractmethod
    def score(self, prediction: Float[Tensor, "n *k"], batch: Batch) -> Float[Tensor, ""]:
        """The error with respect to the noise-free signal of the batch. 0 is perfect."""


class RegressionObjective(Objective):
    """The mean squared error in units of Var(y), with `normalized_mse` as the score.

        loss = E (f - y)^2 / Var(y),   which is 1 for the best constant

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

    def loss_and_grad(
        self,
        prediction: Float[Tensor, "n *k"],
        label: Float[Tensor, "n *k"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "n *k"]]:
        """E (f - y)^2 / Var(y), averaged over entries, and 2 (f - y) / (n k Var(y))."""
        error = prediction - label
        grad = error * (2 / (scale * label.numel()))
        return torch.dot(error.flatten(), grad.flatten()) / 2, grad

    def score(self, prediction: Float[Tensor, "n *k"], batch: Batch) -> Float[Tensor, ""]:
        """E (f - G)^2 / Var(G)."""
        return normalized_mse(prediction, batch.signal, float(self.target.variance))


class ClassificationObjective(Objective):
    """Binary cross-entropy of a logit, with `classification_error` as the score.

        logit = f / s,   s = T Var(G)^(1/2),   T = T_0 (T_1/T_0)^p at progress p of the phase

    At a high temperature T, the loss depends on the whole score. At a low temperature, it depends
    on the examples near the boundary, which determine the error.

    Source: Allen-Zhu and Li, arXiv 2001.04413, classification. The temperature is an addition.

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
        check_positive(temperature=temperature, final_temperature=final)
        self.target = target
        self.temperature = temperature
        self.final_temperature = final

    def scales(self, progress: Sequence[float]) -> list[float]:
        """T Var(G)^(1/2)."""
        std, ratio = float(self.target.variance) ** 0.5, self.final_temperature / self.temperature
        return [std * (self.temperature * float(ratio**each)) for each in progress]

    def loss_and_grad(
        self,
        prediction: Float[Tensor, " n"],
        label: Float[Tensor, " n"],
        scale: float | Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """With z = (1 - 2y) f/s, E log(1 + exp(z)) and (1 - 2y) sigmoid(z) / (n s)."""
        sign = 1 - 2 * label
        z = sign * prediction / scale
        return -nn.functional.logsigmoid(-z).mean(), sign * z.sigmoid() / (scale * label.shape[0])

    def score(self, prediction: Float[Tensor, " n"], batch: Batch) -> Float[Tensor, ""]:
        """The fraction of misclassified samples."""
        return classification_error(prediction, batch.signal)


def objective_for(
    target: Target, labels: Labels, *, temperature: float, final_temperature: float | None = None
) -> Objective:
    """The objective for the type of the labels. The temperatures are those of classification.

    Raises:
        ValueError: if the labels are neither.
    """
    target.require_moments()
    if target.output_shape and not isinstance(labels, Regression):
        raise ValueError("labels must be Regression if the target has vector values.")
    if isinstance(labels, Classification):
        return ClassificationObjective(target, temperature, final_temperature)
    if isinstance(labels, Regression):
        return RegressionObjective(target, labels)
    raise ValueError(f"labels must be Regression or Classification, got {type(labels).__name__}.")


def learner_loss(
    network: Learner, objective: Objective, *, product: Product = matmul
) -> LossAndGrad:
    """The training loss of a learner with its penalty, as a pure function of its parameters.

    Args:
        network: the learner. Its active layers are those of the function.
        objective: the loss of its predictions.
        product: see `Learner.output_and_vjp`.
    """

    def loss_and_grad(
        trained: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        scale: float | Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parameters = {**trained, **fixed}
        prediction, vjp = network.output_and_vjp(parameters, x, trained, product=product)
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
    """E (F - y)^2 + Reg on a sample, in the units of y^2. For regression."""
    [variance] = objective.scales([0.0])
    error = (network(x) - y).square().mean()
    return float(error + variance * network.weight_penalty(network.tensors()))
