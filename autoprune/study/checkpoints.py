"""Weights to continue from, one safetensors file per evaluation under `checkpoints/`.

<trial>/rung-<r>.safetensors      a trial at a rung
<trial>/repeat-<n>.safetensors    its nth re-validation
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from autoprune.errors import RunFolderError

KINDS = ("rung", "repeat")


class Checkpoints:
    """The checkpoint files of a run folder. A file is there in full or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rungs: dict[int, set[int]] = {}
        self._repeats: dict[int, set[int]] = {}
        for kind, known in zip(KINDS, (self._rungs, self._repeats), strict=True):
            for path in folder.glob(f"*/{kind}-*.safetensors"):
                with contextlib.suppress(ValueError):  # a file that somebody else put there
                    known.setdefault(int(path.parent.name), set()).add(
                        int(path.stem.removeprefix(f"{kind}-"))
                    )

    def save(self, trial: int, rung: int, weights: bytes, repeat: int = 0) -> None:
        """Write the weights that a trial had at a rung, or after a re-validation; they are durable when this returns.

        Raises:
            RunFolderError: the disk is full or gone.
        """
        path = self._path(trial, "repeat", repeat) if repeat else self._path(trial, "rung", rung)
        unfinished = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(weights)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written: {error.strerror or error}") from None
        known = self._repeats if repeat else self._rungs
        known.setdefault(trial, set()).add(repeat or rung)

    def load(self, trial: int, rung: int) -> bytes | None:
        """The weights of a trial at the highest rung up to `rung`, None when there are none."""
        below = [have for have in self._rungs.get(trial, ()) if have <= rung]
        return _content(self._path(trial, "rung", max(below))) if below else None

    def load_repeat(self, trial: int, repeat: int) -> bytes | None:
        """The weights of a trial after a re-validation, None when there are none."""
        return _content(self._path(trial, "repeat", repeat))

    def drop(self, keep: Collection[int], latest: Mapping[int, int], repeats: Mapping[int, int]) -> None:
        """Delete the files of all trials not in `keep`, and of those in it what nobody will ask for.

        Args:
            keep: numbers of trials.
            latest: trial -> the rung of its latest durable result; what is older goes.
            repeats: trial -> the re-validation that stands for it; its others go.
        """
        for trial in self.trials:
            if trial not in keep:
                shutil.rmtree(self._folder / str(trial), ignore_errors=True)
                self._rungs.pop(trial, None)
                self._repeats.pop(trial, None)
                continue
            for rung in [rung for rung in self._rungs.get(trial, ()) if rung < latest.get(trial, 0)]:
                self._path(trial, "rung", rung).unlink(missing_ok=True)
                self._rungs[trial].discard(rung)
            for repeat in [n for n in self._repeats.get(trial, ()) if n != repeats.get(trial, n)]:
                self._path(trial, "repeat", repeat).unlink(missing_ok=True)
                self._repeats[trial].discard(repeat)

    @property
    def trials(self) -> set[int]:
        """Numbers of the trials that have a checkpoint."""
        return {*self._rungs, *self._repeats}

    def _path(self, trial: int, kind: str, number: int) -> Path:
        return self._folder / str(trial) / f"{kind}-{number}.safetensors"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
