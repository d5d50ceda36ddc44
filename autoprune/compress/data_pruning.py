"""Data pruning: a candidate trains on a part of the examples, those that teach it most.

An epoch is a pass over what is kept: at 30 % of the examples it takes 30 % of the time, so that the same budget
holds more trials. It changes no network, only what training sees; validation and test splits are never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.compress.example_scores import BUILT_IN, OF_HARDNESS, Scores, at, labels_of
from autoprune.compress.technique import Context, Technique
from autoprune.errors import TaskError
from autoprune.space import Choice, Choices, Options, Range
from autoprune.task import ArraySplit, Data, Split, Task, TrainsItself, example_inputs, main_output
from autoprune.tensors import call

if TYPE_CHECKING:
    from autoprune.targets import Target

METHOD, KEEP = "data_pruning.method", "data_pruning.keep"

# Of the examples that go, this share is the hardest ones, mislabelled and odd; and the chance of an example without
# any hardness, in mean chances of its class.
HARDEST, LEAST_CHANCE = 0.04, 0.1


class DataPruning(Technique):
    """Choose how many training examples are kept, and who says which.

    Of each class the same share is kept, and one example at least. Methods that say how hard an example is leave out
    the very hardest, which may be mislabelled (Paul et al. 2021, section 4), and draw among the others with a chance
    in proportion to their hardness. Keeping the hardest ones alone harms short trainings (Sorscher et al. 2022,
    https://arxiv.org/abs/2206.14486, on few examples). A small network on 30 % of Fashion-MNIST, one seed:

        epochs   random   drawn by el2n   hardest by el2n
             3    88.6 %          88.8 %            75.3 %
            10    89.6 %          90.1 %
            30    89.4 %          90.4 %

    Args:
        method: the choice of `random`, `el2n`, `forgetting`, `margin`, `moderate` or `herding`; read only where
            examples go. What each one costs, once in each worker, is said in `example_scores`.
        keep: the choice of the share of examples kept, above 0; 1 keeps all.
    """

    name = "data_pruning"

    def __init__(
        self,
        method: Options = Options(("el2n", "random"), "el2n"),  # noqa: B008 (immutable)
        keep: Choice = Range(0.3, 1.0, neutral=1.0),  # noqa: B008
    ) -> None:
        self.method, self.keep = method, keep
        self._scored: tuple[nn.Module, Split, dict[str, Scores], int] | None = None

    def choices(self, model: nn.Module, example: Any, target: Target) -> dict[str, Choice]:  # noqa: ARG002
        """Two choices for the whole search."""
        return {METHOD: self.method, KEEP: self.keep}

    def check(self, task: Task, data: Data) -> None:
        """Refuse data without class labels.

        Raises:
            TaskError: the training split is no array, its targets are no classes, the network's outputs are no
                logits of them, or a method needs our training where the task has its own.
        """
        if reason := self._misfit(task, data):
            raise TaskError(f"space.data_pruning: {reason}; leave the section out")

    def _misfit(self, task: Task, data: Data) -> str:
        if not isinstance(data.train, ArraySplit):
            return f"the training split is a {type(data.train).__name__}, expected arrays"
        y = data.train.targets
        if not isinstance(y, np.ndarray) or y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            found = f"{y.dtype} of shape {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
            return f"the training targets are {found}, expected the class of each example"
        with torch.no_grad():
            logits = main_output(task, call(task.model().eval(), example_inputs(data)))
        if logits.dim() != 2 or not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
            return (
                f"the model returns {tuple(logits.shape)} for one example and labels go from {y.min()} to {y.max()}, "
                "expected a logit for each class"
            )
        if "forgetting" in self.method.values and isinstance(task, TrainsItself):
            return "forgetting counts in our training, and the task has its own fit()"
        return ""

    def train_on(self, split: Split, choices: Choices, context: Context) -> Split:
        """The examples that are kept; recorded with their number."""
        keep = choices.number(KEEP, 1.0)
        if keep >= 1.0 or not isinstance(split, ArraySplit):
            return split
        method = choices.text(METHOD, str(self.method.neutral))
        scores = self._scores(method, split, context)
        places = kept(scores, labels_of(split), keep, by_chance=method in OF_HARDNESS, seed=context.seed)
        context.structure[self.name] = {"method": method, "keep": keep, "examples": len(places)}
        return at(split, places)

    def _scores(self, method: str, split: ArraySplit, context: Context) -> Scores:
        """Computed once for each reference, split and seed."""
        found, seed = self._scored, context.seed
        if found is None or found[0] is not context.reference or found[1] is not split or found[3] != seed:
            self._scored = found = (context.reference, split, {}, seed)
        known = found[2]
        if method not in known:
            known[method] = BUILT_IN[method](split, context)
        return known[method]


def kept(
    scores: Scores, labels: NDArray[np.int64], keep: float, *, by_chance: bool = False, seed: int = 0
) -> NDArray[np.int64]:
    """The places of the examples that stay, in order: of each class those that score highest.

    Args:
        scores, labels: of each example.
        keep: share of each class to keep, rounded to whole examples and one at least.
        by_chance: scores say how hard an example is: all but the hardest are drawn by them.
        seed: of the draw, and among equals.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(scores))
    found = []
    for label in np.unique(labels):
        members = drawn[labels[drawn] == label]
        ranked = members[np.argsort(-scores[members], kind="stable")]
        count = max(1, round(keep * len(ranked)))
        if by_chance:
            start = min(round(HARDEST * (1.0 - keep) * len(ranked)), len(ranked) - count)
            ranked = _drawn(ranked[start:], scores, rng)
        found.append(ranked[:count])
    return np.sort(np.concatenate(found))


def _drawn(places: NDArray[np.int64], scores: Scores, rng: np.random.Generator) -> NDArray[np.int64]:
    """All places in the order of a draw without replacement, with chances in proportion to scores.

    Largest first of log chance plus Gumbel noise (Kool et al. 2019, https://arxiv.org/abs/1903.06059, section 2).
    """
    chances = scores[places] - scores[places].min()
    chances += LEAST_CHANCE * chances.mean() if chances.any() else 1.0
    return places[np.argsort(-(np.log(chances) + rng.gumbel(size=len(places))), kind="stable")]
