"""The run folder itself: who may write in it, and what lies in it for people to read."""

from __future__ import annotations

import contextlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import RunFolderError, UnresolvedReference
from autoprune.references import find_file, search_spaces_folder
from autoprune.spec import Spec

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "lock"
LOCK_SECONDS = 1.0  # somebody who only looks whether the lock is held has it for a moment
PACKAGES = ("autoprune", "optuna", "ray", "torch", "onnxruntime")


class Lock:
    """The right to write in a run folder, held from construction to `release` or the process's death.

    Raises:
        RunFolderError: another driver holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import Timeout

        self._lock = _of_all_threads(folder / LOCK, LOCK_SECONDS)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"another search is at work in {folder}; wait for it, or look on with `autoprune status`"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{folder} cannot be written: {error.strerror or error}") from None

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    @staticmethod
    def is_held(folder: Path) -> bool:
        """Whether a living driver has the lock."""
        from filelock import Timeout

        try:
            with _of_all_threads(folder / LOCK, 0.0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written: nobody searches there
            return False


def _of_all_threads(path: Path, timeout: float) -> BaseFileLock:
    """A lock that another thread may release than took it: newer versions of filelock have to be told so."""
    from filelock import FileLock

    known = inspect.signature(FileLock.__init__).parameters
    told: dict[str, Any] = {"thread_local": False} if "thread_local" in known else {}
    return FileLock(path, timeout=timeout, **told)


def refuse_links(folder: Path) -> None:
    """Refuse a run folder in which something leads elsewhere: what came from others must not read or delete there.

    Raises:
        RunFolderError: names the link.
    """
    for place in (folder, folder / "checkpoints", *(folder / "checkpoints").glob("*/")):
        if place.is_dir() and (links := [path for path in place.iterdir() if path.is_symlink()]):
            raise RunFolderError(f"{links[0]} is a link; a run folder holds plain files and folders only")


def prepare(folder: Path, spec: Spec) -> dict[str, Any]:
    """Make the run folder and put the spec and the user's own files in it; returns the provenance.

    Raises:
        RunFolderError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunFolderError(
                f"{folder} exists and is not empty; name another run folder, or resume that one"
            )
        (folder / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
        for path in user_files(spec):
            (folder / "files").mkdir(exist_ok=True)
            shutil.copy2(path, folder / "files" / path.name)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror or error}") from None
    return provenance(spec)


def user_files(spec: Spec) -> list[Path]:
    """The files outside of autoprune that the spec names."""
    return sorted(set(_files(spec)))


def _files(spec: Spec) -> Iterator[Path]:
    teachers = spec.space.distill.teacher if spec.space.distill is not None else ()
    for reference in (
        spec.task.use,
        *(target.use for target in spec.target.values()),
        spec.search.sampler,
        *teachers,
    ):
        with contextlib.suppress(UnresolvedReference):
            path = find_file(reference, spec.folder)
            if path is not None and not path.is_relative_to(search_spaces_folder()):
                yield path


def provenance(spec: Spec) -> dict[str, Any]:
    """When, where and with what a study is made: plain data."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in PACKAGES if _is_installed(name)},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "revision": _revision(spec.folder),
    }


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _revision(folder: Path) -> str:
    """The git revision of the user's files, with a `+` when they were changed since; empty outside of git."""

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
