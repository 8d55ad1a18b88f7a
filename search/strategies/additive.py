"""A Gaussian process that is a sum of one-dimensional effects, of which few are large.

Real trials in 90 coordinates asked for it (docs/log.md). A few coordinates, each on its own, move the loss
most. One training run says little, because seeds differ. There are fewer trials than coordinates.

Trials may have different training seeds. A seed moves the losses of all its trials alike by much more than it
moves their differences, so the model has one offset for each seed.

Shape suffixes: N trials (M a second set), D coordinates, G grid values.

.. [Sparse]   Eriksson and Jankowiak, arXiv 2103.00349: heavy-tailed scales find the few axes that matter.
.. [Additive] Duvenaud, Nickisch and Rasmussen, arXiv 1112.4394: sums of one-dimensional functions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import gpytorch
import numpy as np
import torch
from botorch.exceptions.warnings import OptimizationWarning
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior, NormalPrior
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

# Octaves over which the effect of one coordinate bends. Beyond them the data say nothing.
LENGTHSCALE = 2.0
# Medians of the priors, in standard deviations of the losses. SLOPE is per octave in one dimension. In D
# dimensions each slope is √D smaller, so that all of them together explain the same. SLOPE_SPREAD lets two
# coordinates differ by a factor of 2, so that the few large ones stand out. A wider one (a factor of e)
# predicts no better and exaggerates more (docs/log.md).
SLOPE, SLOPE_SPREAD, COMMON_SPREAD = 0.57, 0.7, 0.3
# BOWL is the cost of a mean square of one octave (measured at `tiny`: 4), NOISE that of one trial, SEED that
# of a training seed.
BOWL, NOISE, SEED, SPREAD = 3.0, 0.5, 0.5, 1.0
# The line search of a fit may try any value. Beyond e^3 of a median, or below this noise variance, rounding
# would decide whether the covariance has a Cholesky factor.
FARTHEST, LEAST_NOISE = 3.0, 1e-3
# Enough for the fit: 40 iterations move the best point by one grid step in one coordinate, once in ten
# proposals.
ITERATIONS = 25


class Bowl(gpytorch.means.Mean):  # type: ignore[misc]
    """The prior mean, a bowl around the start: moving a coordinate that has no effect costs a little."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self._dimensions = dimensions
        self.register_parameter("level", torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)))
        _log_parameter(self, "log_bowl", 1, BOWL, SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.level + self.log_bowl.exp() * (x[..., : self._dimensions] ** 2).mean(-1)
        return mean


class AdditiveKernel(gpytorch.kernels.Kernel):  # type: ignore[misc]
    """Covariance of `sum_j f_j(x_j) + offset`, every f_j zero at 0, where the multiplier is 1.

    f_j is a Gaussian process with a squared-exponential covariance, conditioned on being 0 at 0. Its slope
    there has the standard deviation `exp(log_slope_j + log_common)`. With `seeds`, each training seed has an
    offset of standard deviation `exp(log_seed)`, and the inputs' last column numbers the seeds.
    """

    def __init__(self, dimensions: int, seeds: bool = False) -> None:
        super().__init__()
        _log_parameter(self, "log_slope_D", dimensions, SLOPE / math.sqrt(dimensions), SLOPE_SPREAD)
        _log_parameter(self, "log_common", 1, 1.0, COMMON_SPREAD)
        self._dimensions, self._seeds = dimensions, seeds
        if seeds:
            _log_parameter(self, "log_seed", 1, SEED, SPREAD)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def variance_D(self) -> Tensor:
        """Prior variance of each coordinate's slope."""
        scale_D: Tensor = self.log_slope_D + self.log_common
        return (2 * scale_D).exp()

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: object) -> Tensor:
        effects_DNM = self._effects(x1, x2)
        covariance_NM: Tensor = torch.tensordot(self.variance_D, effects_DNM, dims=1)
        if self._seeds:
            same_NM = x1[:, None, -1] == x2[None, :, -1]
            covariance_NM = covariance_NM + (2 * self.log_seed).exp() * same_NM
        return covariance_NM.diagonal() if diag else covariance_NM

    def _effects(self, x1: Tensor, x2: Tensor) -> Tensor:
        """`effects`, kept for the last pair of tensors: a fit asks for the same points again and again.

        They count as constants, so the process has no gradient with respect to the points.
        """
        if self._seen is None or self._seen[0] is not x1 or self._seen[1] is not x2:
            points = (x.detach()[:, : self._dimensions] for x in (x1, x2))
            self._seen = (x1, x2, effects(*points))
        return self._seen[2]


def _log_parameter(
    module: gpytorch.Module, name: str, size: int, median: float, spread: float
) -> None:
    """Register a parameter with a normal prior whose exponential has the given median.

    It stays within `FARTHEST` of the logarithm of that median.
    """
    middle = math.log(median)
    start = torch.full((size,), middle, dtype=torch.float64)
    module.register_parameter(name, torch.nn.Parameter(start))
    prior = NormalPrior(start[0].clone(), torch.tensor(spread, dtype=torch.float64))
    module.register_prior(f"{name}_prior", prior, name)
    module.register_constraint(name, Interval(middle - FARTHEST, middle + FARTHEST, transform=None))


def effects(x1_ND: Tensor, x2_MD: Tensor) -> Tensor:
    """Covariances of the one-dimensional effects with unit slope, shape (D, N, M)."""
    a_DN1, b_D1M = x1_ND.T[:, :, None] / LENGTHSCALE, x2_MD.T[:, None, :] / LENGTHSCALE
    at_start = torch.exp(-(a_DN1**2) / 2) * torch.exp(-(b_D1M**2) / 2)
    anchored = torch.exp(-((a_DN1 - b_D1M) ** 2) / 2) - at_start
    return LENGTHSCALE**2 * anchored


class AdditiveModel:
    """The process with its most probable parameters, given the trials and their losses.

    `points_ND` are octaves from the start. `losses_N` must be finite, and N at least 2. `seeds_N` numbers the
    trials' training seeds; all trials share one if it is empty. `gp` is the fitted BoTorch model.
    """

    def __init__(self, points_ND: Array, losses_N: Array, seeds_N: Sequence[int] = ()) -> None:
        dimensions, several = points_ND.shape[1], len(set(seeds_N)) > 1
        self._points_ND = torch.as_tensor(points_ND, dtype=torch.float64)
        inputs = self._points_ND
        if several:
            numbers_N1 = torch.tensor(seeds_N, dtype=torch.float64)[:, None]
            inputs = torch.cat((self._points_ND, numbers_N1), dim=1)
        losses_N1 = torch.as_tensor(losses_N, dtype=torch.float64)[:, None]
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(2 * math.log(NOISE), SPREAD),
            noise_constraint=GreaterThan(LEAST_NOISE, initial_value=NOISE**2),
        )
        self._kernel, self._mean = AdditiveKernel(dimensions, several), Bowl(dimensions)
        self.gp = SingleTaskGP(
            inputs,
            losses_N1,
            likelihood=likelihood.double(),
            covar_module=self._kernel,
            mean_module=self._mean,
            outcome_transform=Standardize(1),
        )
        with warnings.catch_warnings():
            # The warning says that the fit stopped at its limit or could not improve; its result is used.
            # Restarts would draw from torch's global generator, so proposals would not repeat.
            warnings.simplefilter("ignore", OptimizationWarning)
            likelihood_of = ExactMarginalLogLikelihood(self.gp.likelihood, self.gp)
            fit_gpytorch_mll_scipy(likelihood_of, options={"maxiter": ITERATIONS})
        with torch.no_grad():
            self.gp.posterior(inputs[:1])  # fills GPyTorch's cache
            self._weights_N = self.gp.prediction_strategy.mean_cache

    def best(self, lower_D: Array, upper_D: Array, resolution: int = 81) -> Array:
        """The point of a box with the least expected loss, shape (D,), in octaves from the start.

        A sum of one-dimensional functions is least where each of them is, so each one has its own grid.
        """
        steps_G1 = np.linspace(0.0, 1.0, resolution)[:, None]
        values_GD = torch.as_tensor(lower_D + steps_G1 * (upper_D - lower_D))
        with torch.no_grad():
            effects_DG = effects(values_GD, self._points_ND) @ self._weights_N
            bowl_GD = self._mean.log_bowl.exp() * values_GD**2 / len(lower_D)
            costs_GD = (effects_DG * self._kernel.variance_D[:, None]).T + bowl_GD
        chosen_D = costs_GD.argmin(0)
        return np.asarray(values_GD[chosen_D, torch.arange(len(lower_D))].numpy())
