"""What the guided sampler believes of points that nobody has tried: a Gaussian process of a special form.

The kernel is a sum of three: one that adds up what each choice does alone (all that a few trials can tell), one
over all choices together (what is left: interactions), and one over a few figures of the whole point that are
known without trying it (costs, sensitivity, how many layers have which bits). How much each counts, and
each choice within them, is learned by maximizing the marginal likelihood under broad priors.

Additive kernels: Duvenaud et al., "Additive Gaussian Processes" (2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

ADDITIVE, JOINT, SHARPNESS, FIGURES, LINEAR, NOISE, CHOICES = range(7)  # places in the vector of logarithms
START = np.log([0.5, 0.3, 1.5, 0.3, 0.1, 0.02])
SPREAD = np.array([1.5, 1.5, 1.0, 1.5, 1.5, 1.5])  # standard deviations of the priors
CHOICE_SPREAD = 0.6
FIGURE_START, FIGURE_SPREAD = np.log(0.3), 1.2
LEAST_NOISE = 1e-5
LEAST_VARIANCE = 1e-6  # what single precision can tell from none
STEPS = 12  # of the optimizer: learned roughly and often rather than once and for all


class Surrogate:
    """Predicts one number of a point, with how sure it is.

    Args:
        blocks: for each feature the choice that it describes; see `Encoding`.
        figures: how many figures of the whole point are given.
    """

    def __init__(self, blocks: NDArray[np.int64], figures: int) -> None:
        self._blocks = blocks
        self._choices = int(blocks.max(initial=-1)) + 1
        self._centre = np.concatenate(
            [START, np.full(self._choices, -np.log(max(1, self._choices))), np.full(figures, FIGURE_START)]
        )
        spread = np.concatenate(
            [SPREAD, np.full(self._choices, CHOICE_SPREAD), np.full(figures, FIGURE_SPREAD)]
        )
        self._precision = spread**-2
        self._logs = self._centre.copy()

    def tune(self, features: Floats, figures: Floats, values: Floats) -> None:
        """Learn the kernel from trials.

        Args:
            features: (N, F), what describes the points.
            figures: (N, G), of about unit scale.
            values: (N,).
        """
        scaled = (values - values.mean()) / (values.std() or 1.0)
        bounds = list(zip(self._centre - 6.0, self._centre + 6.0, strict=True))
        found = minimize(
            self._loss,
            self._centre,  # a start from what was learned before would keep its mistakes
            args=(features, figures, scaled),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": STEPS},
        )
        if np.isfinite(found.fun):
            self._logs = found.x

    def fit(self, features: Floats, figures: Floats, values: Floats) -> None:
        """Condition on trials; arguments as in `tune`."""
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        self._features, self._figures = features, figures
        kernel = self._kernel(features, figures)
        kernel[np.diag_indices_from(kernel)] += self._noise()
        self._factor = cholesky(kernel, lower=True, overwrite_a=True, check_finite=False)
        scaled = (values - self._mean) / self._scale
        self._weights = cho_solve((self._factor, True), scaled, check_finite=False)

    def predict(self, features: Floats, figures: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the value at points, each (N,).

        In single precision: hundreds of points times hundreds of trials are most of what a suggestion takes.
        """
        parts = features, figures, self._features, self._figures
        between = self._kernel(*(part.astype(np.float32, copy=False) for part in parts))
        mean = between @ self._weights
        factor = self._factor.astype(np.float32)
        known = solve_triangular(factor, between.T, lower=True, overwrite_b=True, check_finite=False)
        variance = self._diagonal(figures) - np.einsum("ij,ij->j", known, known)
        return mean * self._scale + self._mean, np.sqrt(variance.clip(LEAST_VARIANCE)) * self._scale

    def _noise(self) -> float:
        return float(np.exp(self._logs[NOISE])) + LEAST_NOISE

    def _split(self, logs: Floats) -> tuple[Floats, Floats, Floats]:
        """Variances and the like, weights of the choices, weights of the figures."""
        numbers = np.exp(logs)
        return (
            numbers[:CHOICES],
            numbers[CHOICES : CHOICES + self._choices],
            numbers[CHOICES + self._choices :],
        )

    def _kernel(
        self,
        features: NDArray[Any],
        figures: NDArray[Any],
        others: NDArray[Any] | None = None,
        their: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        numbers, choices, weights = (part.astype(features.dtype) for part in self._split(self._logs))
        roots = np.sqrt(choices)[self._blocks]
        left = features * roots
        right = left if others is None else others * roots
        other_figures = figures if their is None else their
        alike = left @ right.T  # of a matrix with itself half of it is computed
        # Fresh memory takes longer than what is calculated in it: these two are all that there is.
        total = alike - choices.sum()
        total *= numbers[SHARPNESS]
        np.exp(total, out=total)
        total *= numbers[JOINT]
        alike *= numbers[ADDITIVE]
        total += alike
        if figures.shape[1]:
            near = _distances(figures, other_figures, weights, out=alike)
            near *= figures.dtype.type(-0.5)
            np.exp(near, out=near)
            near *= numbers[FIGURES]
            total += near
            total += np.matmul(numbers[LINEAR] / figures.shape[1] * figures, other_figures.T, out=alike)
        return np.asarray(total)

    def _diagonal(self, figures: Floats) -> Floats:
        numbers, choices, _ = self._split(self._logs)
        constant = np.full(len(figures), numbers[ADDITIVE] * choices.sum() + numbers[JOINT])
        if figures.shape[1]:
            constant += numbers[FIGURES] + numbers[LINEAR] * (figures**2).mean(axis=1)
        return constant

    def _loss(self, logs: Floats, features: Floats, figures: Floats, values: Floats) -> tuple[float, Floats]:
        """Negative log posterior of the kernel's parameters, and its gradient."""
        numbers, choices, weights = self._split(logs)
        alike = (features * choices[self._blocks]) @ features.T
        joint = numbers[JOINT] * np.exp(numbers[SHARPNESS] * (alike - choices.sum()))
        kernel = numbers[ADDITIVE] * alike + joint
        given = figures.shape[1]
        if given:
            near = numbers[FIGURES] * np.exp(-0.5 * _distances(figures, figures, weights))
            linear = numbers[LINEAR] / given * (figures @ figures.T)
            kernel += near + linear
        kernel[np.diag_indices_from(kernel)] += numbers[NOISE] + LEAST_NOISE
        try:
            factor = cholesky(kernel, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(logs)
        solved = cho_solve((factor, True), values, check_finite=False)
        inverse = cho_solve((factor, True), np.eye(len(values)), check_finite=False)
        slope = inverse - np.outer(solved, solved)
        gradient = np.zeros_like(logs)
        gradient[ADDITIVE] = numbers[ADDITIVE] * (slope * alike).sum()
        by_joint = slope * joint
        gradient[JOINT] = by_joint.sum()
        gradient[SHARPNESS] = numbers[SHARPNESS] * (by_joint * (alike - choices.sum())).sum()
        gradient[NOISE] = numbers[NOISE] * np.trace(slope)
        mixed = numbers[ADDITIVE] * slope + numbers[SHARPNESS] * by_joint
        moved = np.einsum("ij,ij->j", features, mixed @ features)
        per_choice = np.bincount(self._blocks, moved, minlength=self._choices)
        gradient[CHOICES : CHOICES + self._choices] = choices * (
            per_choice - numbers[SHARPNESS] * by_joint.sum()
        )
        if given:
            by_near = slope * near
            gradient[FIGURES] = by_near.sum()
            gradient[LINEAR] = (slope * linear).sum()
            squares = (figures**2 * by_near.sum(axis=1)[:, None]).sum(axis=0)
            products = np.einsum("ij,ij->j", figures, by_near @ figures)
            gradient[CHOICES + self._choices :] = -weights * (squares - products)
        away = logs - self._centre
        loss = 0.5 * float(values @ solved) + float(np.log(np.diag(factor)).sum())
        loss += 0.5 * float((self._precision * away**2).sum())
        return loss, 0.5 * gradient + self._precision * away


def _distances(
    first: NDArray[Any], second: NDArray[Any], weights: NDArray[Any], out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Weighted squared distances (N, M) between rows, in `out` where it is given."""
    scale = np.sqrt(weights)
    a, b = first * scale, second * scale
    squared = np.matmul(-2.0 * a, b.T, out=out)
    squared += (a**2).sum(axis=1)[:, None]
    squared += (b**2).sum(axis=1)
    return np.asarray(squared.clip(0.0, out=squared))
