"""Who teaches: the uncompressed reference, networks from outside, or several of them.

reference                  the uncompressed network
teachers.py:Large          a network, or a class or function that makes one, in a file or an installed package
out/                       an artifact of ours
(whatever else a task's `model` can be: see `autoprune.task.sources`)
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.compress.distill.features import listening, only_asking
from autoprune.errors import AutopruneError, ModelError, raised
from autoprune.forward import fast_layout, laid_out
from autoprune.task.output import logits_of, main_output
from autoprune.task.sources import load_model
from autoprune.tensors import Inputs, call, in_eval_mode, raw_bytes, tensors_in

REFERENCE = "reference"
ALL = "all"
FIELD = "space.distill.teacher"
MOST_KEPT = 32 * 2**20  # bytes of answers that a teacher keeps
IN_VAIN = 20  # times as many questions as there are answers, before it is given up that one comes twice


class Teacher:
    """A network that is only asked: in eval mode, without gradients, on the device and in the layout that suit.

    All candidates of a search see the same batches in the same order, augmentation included, and a small one trains
    faster than its teacher answers: what it said is kept.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self._said = Said()
        self._asked: dict[torch.device | None, tuple[nn.Module, torch.memory_format]] = {}

    def __call__(self, inputs: Inputs, layers: Iterable[str] = ()) -> tuple[Any, dict[str, torch.Tensor]]:
        """What it says, and what these of its layers give."""
        key = self._said.key(inputs) if not layers else None
        known = self._said.get(key)
        if known is not None:
            return known, {}
        asked, layout = self._for(inputs)
        with only_asking(), listening(asked, layers) as features:
            answer = call(asked, laid_out(inputs, layout))
        self._said.keep(key, answer)
        return answer, features

    def _for(self, inputs: Inputs) -> tuple[nn.Module, torch.memory_format]:
        """The network where the inputs are; where that is another device a copy, for the reference stays."""
        given, own = next(iter(tensors_in(inputs)), None), next(self.network.parameters(), None)
        device = None if given is None or own is None else given.device
        if device not in self._asked:
            moved = own is not None and device is not None and device != own.device
            network = copy.deepcopy(self.network).to(device) if moved else self.network
            self._asked[device] = network, fast_layout(network, inputs)
        return self._asked[device]


class Said:
    """Answers by what was asked, to the byte, as many as there is room for.

    The first ones stay: who asks the same again does so from the beginning. Where nobody asks anything twice (a loader
    that shuffles as it likes), it is given up. On other devices than the processor nothing is kept: there a pass takes
    less time than a look at the inputs.

    Args:
        most: bytes of answers.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most, self._bytes = most, 0
        self._answers: dict[bytes, Any] = {}
        self._hits = self._misses = 0

    def key(self, inputs: Inputs) -> bytes | None:
        """What stands for the inputs; None where it is not worth a look."""
        tensors = tensors_in(inputs)
        is_useless = not self._hits and self._misses > IN_VAIN * max(1, len(self._answers))
        if is_useless or not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
            return None
        digest = hashlib.blake2b(digest_size=16)
        for tensor in tensors:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(raw_bytes(tensor))
        return digest.digest()

    def get(self, key: bytes | None) -> Any:
        """The answer; None where there is none."""
        answer = None if key is None else self._answers.get(key)
        self._hits += answer is not None
        self._misses += answer is None
        return answer

    def keep(self, key: bytes | None, answer: Any) -> None:
        """Keep an answer, as long as there is room."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(answer))
        if key is not None and size and self._bytes + size <= self._most:
            self._answers[key] = answer
            self._bytes += size


class Teachers:
    """The teachers that a spec names, each made when it is first asked for.

    Args:
        names: as at the top of this module.
        folder: where relative files are looked for first.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        self.names, self._folder = tuple(names), folder
        self._made: dict[str, Teacher] = {}

    def named(self, which: str, reference: nn.Module) -> dict[str, Teacher]:
        """The teacher of that name, or `all`; `reference` is the uncompressed network."""
        names = self.names if which == ALL else (which,)
        return {name: self._teacher(name, reference) for name in names}

    def _teacher(self, name: str, reference: nn.Module) -> Teacher:
        made = self._made.get(name)
        if made is None or (name == REFERENCE and made.network is not reference):
            network = reference if name == REFERENCE else _load(name, self._folder)
            made = self._made[name] = Teacher(network)
        return made

    def check(self, model: nn.Module, example: Inputs, task: Any) -> None:
        """Try every teacher from outside on an example.

        Args:
            model: the network that the candidates are made of.
            example: inputs of batch size 1.
            task: says which tensor of the outputs counts; None where it is not known.

        Raises:
            ModelError: a teacher cannot be made, raises, or its outputs do not fit those of the model.
            UnresolvedReference, ArtifactError, MissingExtra: it is not there.
        """
        outside = [name for name in self.names if name != REFERENCE]
        for name in outside:
            teacher = self._teacher(name, model)
            try:
                said, _ = teacher(example)
            except Exception as error:
                raise ModelError(
                    f"{FIELD}: got {name!r}, which {raised(error)} for the task's inputs"
                ) from error
            with in_eval_mode(model), only_asking():
                wanted = _counting(task, call(model, example))
            check_fit(_counting(task, said), wanted, name)


def _counting(task: Any, outputs: Any) -> torch.Tensor:
    return logits_of(outputs) if task is None else main_output(task, outputs)


def _load(name: str, folder: Path | None) -> nn.Module:
    try:
        return load_model(name, folder).requires_grad_(False)
    except AutopruneError as error:
        raise type(error)(f"{FIELD}: got {name!r}, expected a network: {error}") from error


def check_fit(taught: torch.Tensor, student: torch.Tensor, teacher: str) -> None:
    """Refuse a teacher that says something of another shape than the student.

    Raises:
        ModelError: the shapes differ.
    """
    if taught.shape != student.shape:
        raise ModelError(
            f"{FIELD}: got {teacher!r}, which gives outputs of shape {tuple(taught.shape)}, expected "
            f"{tuple(student.shape)} as of the candidate: a teacher must do the same task"
        )
