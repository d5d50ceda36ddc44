"""What comes back from a worker: a result, or why there is none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from autoprune.cluster.seat import Task
from autoprune.errors import SearchFailed
from autoprune.record import LOST, Evaluation


def results_of(futures: Sequence[Any]) -> list[Any]:
    """The results of what runs at workers; errors of ours come back as themselves.

    Raises:
        SearchFailed: a worker died.
    """
    import ray

    try:
        return list(ray.get(list(futures)))
    except ray.exceptions.RayTaskError as error:
        raise cause_of(error) from None
    except ray.exceptions.RayActorError as error:
        raise SearchFailed(
            f"a worker died: {first_line(error)} Is there enough memory, or does the task's code end the process?"
        ) from None


def answer_of(future: Any) -> Any:
    """The result of what is done, or the exception in place of it."""
    import ray

    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return error


def failed(task: Task, reason: str, *, is_poison: bool = False) -> Evaluation:
    """The evaluation of a request that came to nothing."""
    request, seconds = task.request, {"total": time.monotonic() - task.started}
    result = Evaluation(request.trial, request.rung, "failed", request.choices, repeat=request.repeat)
    result.seconds = seconds | ({LOST: task.lost} if task.lost else {})
    result.reason, result.is_poison = reason[:2000], is_poison
    return result


def cause_of(error: BaseException) -> BaseException:
    """What was raised in the worker, where it can be told, and the error itself where not."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def is_of_node(error: BaseException) -> bool:
    """Whether a worker died with its node, which is not the fault of what it was at work on."""
    return "node has died" in str(error) or "node was terminated" in str(error)


def first_line(error: BaseException) -> str:
    """What Ray says before it lists identifiers."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
