"""Weights to continue from, one safetensors file per trial and rung under `checkpoints/`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from autoprune.errors import RunFolderError


class Checkpoints:
    """The checkpoint files of a run folder. A file is there in full or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rungs: dict[int, set[int]] = {}
        for path in folder.glob("*/rung-*.safetensors"):
            with contextlib.suppress(ValueError):  # a file that somebody else put there
                self._rungs.setdefault(int(path.parent.name), set()).add(int(path.stem.removeprefix("rung-")))

    def save(self, trial: int, rung: int, weights: bytes) -> None:
        """Write the weights that a trial had at a rung; they are durable when this returns.

        Raises:
            RunFolderError: the disk is full or gone.
        """
        path = self._path(trial, rung)
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
        self._rungs.setdefault(trial, set()).add(rung)

    def load(self, trial: int, rung: int) -> bytes | None:
        """The weights of a trial at the highest rung up to `rung`, None when there are none."""
        below = [have for have in self._rungs.get(trial, ()) if have <= rung]
        path = self._path(trial, max(below)) if below else None
        return path.read_bytes() if path is not None and path.is_file() else None

    def drop(self, keep: Collection[int], latest: Mapping[int, int]) -> None:
        """Delete the files of all trials not in `keep`, and of those in it what is older than their latest.

        Args:
            keep: numbers of trials.
            latest: trial -> the rung of its latest durable result.
        """
        for trial in list(self._rungs):
            if trial not in keep:
                shutil.rmtree(self._folder / str(trial), ignore_errors=True)
                del self._rungs[trial]
                continue
            for rung in [rung for rung in self._rungs[trial] if rung < latest.get(trial, 0)]:
                self._path(trial, rung).unlink(missing_ok=True)
                self._rungs[trial].discard(rung)

    @property
    def trials(self) -> set[int]:
        """Numbers of the trials that have a checkpoint."""
        return set(self._rungs)

    def _path(self, trial: int, rung: int) -> Path:
        return self._folder / str(trial) / f"rung-{rung}.safetensors"
