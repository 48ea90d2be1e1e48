"""Input distributions: the distribution of x in R^d, Gaussian or on the Boolean cube."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer


class InputDistribution(nn.Module, ABC):
    """The distribution of x. Subclass it to define your own.

    A subclass sets `input_dim` and registers its tensors as float64 buffers. `.to(device, dtype)`
    sets the device and the dtype of the samples.

    Attributes:
        input_dim: d, the number of coordinates.
        mean: E x, shape (d,).
    """

    input_dim: int
    mean: Tensor

    @property
    @abstractmethod
    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance E (x - E x)(x - E x)^T."""

    @abstractmethod
    def sample(self, num_samples: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws n independent samples with the device and dtype of the distribution.

        Args:
            num_samples: n.
            random: generator on the same device.
        """

    def sample_parts(
        self, num_samples: int, pool: Sequence[torch.Generator]
    ) -> Float[Tensor, "p_times_n d"]:
        """Draws n samples from each of p generators, bitwise equal to those of `sample`."""
        return torch.cat([self.sample(num_samples, random) for random in pool])

    def __repr__(self) -> str:  # of one line, since it becomes part of error messages
        return f"{type(self).__name__}()"


def haar_orthogonal(size: int, random: torch.Generator) -> Float[Tensor, "size size"]:
    """Draws an orthogonal matrix from the Haar measure, in float64.

    It is the factor Q of a Gaussian matrix, with columns multiplied by the signs of R's diagonal.

    Source: F. Mezzadri, "How to generate random matrices from the classical compact groups" (2007).

    Args:
        size: number of rows and columns.
        random: a CPU generator.
    """
    gaussian = torch.randn(size, size, generator=random, dtype=torch.float64)
    orthogonal, triangular = torch.linalg.qr(gaussian)
    signed: Tensor = orthogonal * triangular.diagonal().sign()
    return signed


def _explicit_spectrum(input_dim: int, eigenvalues: Sequence[float]) -> Tensor:
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    if values.shape != (input_dim,):
        raise ValueError(
            f"eigenvalues must be input_dim = {input_dim} numbers, got {len(eigenvalues)}."
        )
    invalid = values[~((values > 0) & values.isfinite())]
    if len(invalid):
        raise ValueError(f"eigenvalues must all be positive and finite, got {float(invalid[0])}.")
    return values


def _spectrum(
    input_dim: int,
    *,
    condition_number: float | None,
    power_law_exponent: float | None,
    eigenvalues: Sequence[float] | None,
) -> Tensor:
    choices = {
        "condition_number": condition_number,
        "power_law_exponent": power_law_exponent,
        "eigenvalues": eigenvalues,
    }
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"at most one spectrum may be given, got {' and '.join(given)}.")
    if eigenvalues is not None:
        return _explicit_spectrum(input_dim, eigenvalues)
    if condition_number is not None:
        if not 1 <= condition_number < math.inf:
            raise ValueError(f"condition_number must lie in [1, inf), got {condition_number}.")
        exponents = torch.linspace(0, -1, input_dim, dtype=torch.float64)
        values = torch.as_tensor(condition_number, dtype=torch.float64) ** exponents
    elif power_law_exponent is not None:
        if not 0 <= power_law_exponent < math.inf:
            raise ValueError(f"power_law_exponent must lie in [0, inf), got {power_law_exponent}.")
        values = torch.arange(1, input_dim + 1, dtype=torch.float64) ** -power_law_exponent
    else:
        return torch.ones(input_dim, dtype=torch.float64)
    return values * (input_dim / values.sum())


def _mean_vector(input_dim: int, mean: float | Sequence[float]) -> Tensor:
    if isinstance(mean, int | float):
        mean = [float(mean)] * input_dim
    vector = torch.as_tensor(mean, dtype=torch.float64)
    if not bool(vector.isfinite().all()):
        raise ValueError(f"mean must be finite, got {mean[0] if len(set(mean)) == 1 else mean}.")
    if vector.shape != (input_dim,):
        raise ValueError(
            f"mean must be one number or input_dim = {input_dim} numbers, got {len(mean)}."
        )
    return vector


class Gaussian(InputDistribution):
    """A Gaussian distribution, isotropic by default.

        x = mu + Q diag(s)^(1/2) z,   z ~ N(0, 1),   so that x ~ N(mu, Q diag(s) Q^T)

    The eigenvalues s are 1 unless one of `condition_number`, `power_law_exponent` and
    `eigenvalues` is given. The first two are scaled to trace d.

    Source: Allen-Zhu and Li, arXiv 2001.04413 (non-spherical Gaussian inputs).

    Args:
        input_dim: d, at least 1.
        mean: mu, one number for all coordinates or a list of d numbers.
        condition_number: ratio of the largest to the smallest s_i. All s_i are log-spaced.
        power_law_exponent: s_i is proportional to i^(-exponent).
        eigenvalues: s, a list of d positive numbers.
        rotation: `haar` draws Q from the Haar measure. `identity` sets Q to the identity.
        seed: seed of Q, 0 by default. The command line derives it from the seed of the run.

    Raises:
        ValueError: if an argument is out of range, or more than one spectrum is given.
    """

    eigenvalues: Tensor
    factor: Tensor

    def __init__(
        self,
        input_dim: int,
        mean: float | list[float] = 0.0,
        condition_number: float | None = None,
        power_law_exponent: float | None = None,
        eigenvalues: list[float] | None = None,
        rotation: Literal["haar", "identity"] = "haar",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim = as_integer(input_dim, "input_dim", least=1)
        if rotation not in ("haar", "identity"):
            raise ValueError(f"rotation must be 'haar' or 'identity', got {rotation!r}.")
        spectrum = _spectrum(
            input_dim,
            condition_number=condition_number,
            power_law_exponent=power_law_exponent,
            eigenvalues=eigenvalues,
        )
        self.is_isotropic = bool((spectrum == 1).all())
        self.register_buffer("mean", _mean_vector(input_dim, mean))
        self.register_buffer("eigenvalues", spectrum)
        factor = spectrum.sqrt().diag()
        if rotation == "haar" and not self.is_isotropic:
            random = generator(0 if seed is None else seed, "rotation")
            factor = haar_orthogonal(input_dim, random) @ factor
        self.register_buffer("factor", None if self.is_isotropic else factor)

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance Q diag(s) Q^T."""
        return self.eigenvalues.diag() if self.is_isotropic else self.factor @ self.factor.T

    def sample(self, num_samples: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws n samples."""
        noise = self.mean.new_empty(num_samples, self.input_dim).normal_(generator=random)
        return self.mean + (noise if self.is_isotropic else noise @ self.factor.T)

    def sample_parts(
        self, num_samples: int, pool: Sequence[torch.Generator]
    ) -> Float[Tensor, "p_times_n d"]:
        """Draws n samples from each of p generators, without a copy if x is isotropic."""
        if type(self).sample is not Gaussian.sample or not self.is_isotropic:
            return super().sample_parts(num_samples, pool)
        x = self.mean.new_empty(len(pool) * num_samples, self.input_dim)
        for part, random in zip(torch.split(x, num_samples), pool, strict=True):
            part.normal_(generator=random)
        return x.add_(self.mean)


class GaussianMixture(InputDistribution):
    """A mixture of Gaussians, each with its own mean and covariance.

        c ~ Categorical(p),   x | c ~ N(mu_c, Sigma_c)

    Source: Allen-Zhu and Li, arXiv 2001.04413, who allow mixtures of non-spherical Gaussians.
    Their proposition is less general. There, every component is centered at 0, and each coordinate
    of x has the same variance in every component. (Their components are N(0, Sigma_c^2), and for
    each j, the j-th rows of all Sigma_c have the same norm.)

    Args:
        components: Gaussians with the same `input_dim`. Components with the same seed have the
            same rotation. The command line gives each component a different seed.
        weights: p, positive numbers that sum to 1. Equal by default.

    Raises:
        ValueError: if there is no component, the dimensions differ, or the weights are not a
            probability distribution.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, components: list[Gaussian], weights: list[float] | None = None) -> None:
        super().__init__()
        if not components:
            raise ValueError("components must contain at least one Gaussian, got [].")
        dims = [component.input_dim for component in components]
        if len(set(dims)) > 1:
            raise ValueError(f"components must have the same input_dim, got {dims}.")
        count = len(components)
        given = [1 / count] * count if weights is None else weights
        p = torch.as_tensor(given, dtype=torch.float64)
        if p.shape != (count,) or not bool((p > 0).all()) or abs(float(p.sum()) - 1) > 1e-6:
            raise ValueError(
                f"weights must be {count} positive numbers that sum to 1, got {weights}."
            )
        self.input_dim = dims[0]
        means = torch.stack([component.mean for component in components])
        factors = [
            torch.eye(dims[0], dtype=torch.float64) if part.is_isotropic else part.factor
            for part in components
        ]
        self.register_buffer("weights", p)
        self.register_buffer("means", means)
        self.register_buffer("factors", torch.stack(factors))
        self.register_buffer("mean", p @ means)

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance sum_c p_c (Sigma_c + mu_c mu_c^T) - mu mu^T."""
        within = torch.einsum("c,cij,ckj->ik", self.weights, self.factors, self.factors)
        shift = self.means - self.mean
        return within + torch.einsum("c,ci,cj->ij", self.weights, shift, shift)

    def sample(self, num_samples: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws n samples."""
        noise = self.mean.new_empty(num_samples, self.input_dim).normal_(generator=random)
        uniform = self.mean.new_empty(num_samples).uniform_(generator=random)
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), uniform)
        spread = torch.einsum("nj,cij->nci", noise, self.factors)
        return self.means[chosen] + spread.take_along_dim(chosen[:, None, None], dim=1)[:, 0]


class Hypercube(InputDistribution):
    """The uniform distribution on the Boolean cube {-1, 1}^d.

    The coordinates are independent random signs, with mean 0 and covariance 1.

    Source: Allen-Zhu and Li, arXiv 1905.10337, experiments; Abbe et al., arXiv 2302.11055.

    Args:
        input_dim: d, at least 1.

    Raises:
        ValueError: if `input_dim` is below 1.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.input_dim = as_integer(input_dim, "input_dim", least=1)
        self.register_buffer("mean", torch.zeros(self.input_dim, dtype=torch.float64))

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The identity."""
        return torch.ones_like(self.mean).diag()

    def sample(self, num_samples: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws n samples."""
        bits = self.mean.new_empty(num_samples, self.input_dim).random_(0, 2, generator=random)
        return bits.mul_(2).sub_(1)


class ProjectedLaw(InputDistribution):
    """The distribution of P x, the residual of the linear regression of x on <w, x>.

        P x = x - Sigma w <w, x - mu> / (w^T Sigma w)

    <w, P x> is constant. For Gaussian x, P x is independent of <w, x>. For N(0, 1), P is the
    orthogonal projection onto the complement of w.

    Source: the slides' Pi_{w^perp} (Allen-Zhu and Li), generalized here to other covariances.

    Args:
        inputs: the distribution of x.
        direction: w, nonzero, shape (d,).
    """

    direction: Tensor
    response: Tensor
    center: Tensor

    def __init__(self, inputs: InputDistribution, direction: Float[Tensor, " d"]) -> None:
        super().__init__()
        self.inputs = inputs
        self.input_dim = inputs.input_dim
        spread = inputs.covariance @ direction
        self.register_buffer("direction", direction)
        self.register_buffer("response", spread / (direction @ spread))
        self.register_buffer("center", direction @ inputs.mean)
        self.register_buffer("mean", inputs.mean.clone())

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance P Sigma P^T."""
        eye = torch.eye(self.input_dim, dtype=self.mean.dtype, device=self.mean.device)
        project = eye - torch.outer(self.response, self.direction)
        return project @ self.inputs.covariance @ project.T

    def project(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns P x for every row x."""
        return x - torch.outer(x @ self.direction - self.center, self.response)

    def sample(self, num_samples: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Draws n samples of x and projects them."""
        return self.project(self.inputs.sample(num_samples, random))
