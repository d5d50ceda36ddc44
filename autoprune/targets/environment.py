"""Environments of their own: for packages whose requirements clash with ours, or are too large to be asked of everyone.

One is made by `python -m autoprune.targets.environment NAME`, never on the way: it downloads. It lies in the cache
folder under a name that changes with its requirements, and is driven by scripts that get JSON on their standard input
and print JSON on the last line of their output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

from autoprune.errors import AutopruneError, BadInput, MissingExtra, TargetError
from autoprune.references import nearest
from autoprune.targets.cache import cache_folder

READY = ".ready"
SHOWN = 300


class Environment(NamedTuple):
    """What an environment holds.

    Attributes:
        requirements: as pip takes them.
        size: on the disk, roughly, in words.
        shares_ours: whether what is installed here counts there too: torch, which is large.
    """

    requirements: tuple[str, ...]
    size: str
    shares_ours: bool = False


ENVIRONMENTS = {
    # setuptools: ZigZag imports pkg_resources without asking for it; six likewise.
    "executorch": Environment(("executorch==1.5.1",), "240 MB", shares_ours=True),
    "litert": Environment(("litert-torch==0.10.0", "tensorflow-cpu==2.21.0"), "2.3 GB", shares_ours=True),
    "hls4ml": Environment(("hls4ml==1.3.0", "qonnx==1.0.0", "onnx==1.23.2", "onnxruntime==1.32.0"), "360 MB"),
    "zigzag": Environment(("zigzag-dse==3.9.1", "six==1.17.0", "setuptools<81"), "450 MB"),
}


def folder_of(name: str) -> Path:
    """Where an environment lies, made or not."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(repr((ENVIRONMENTS[name].requirements, version)).encode()).hexdigest()[:12]
    return cache_folder() / "environments" / f"{name}-{key}"


def python_of(name: str) -> str:
    """The interpreter of an environment.

    Raises:
        MissingExtra: it was not made yet.
    """
    folder = folder_of(name)
    if not (folder / READY).is_file():
        raise MissingExtra(
            f"{name} needs an environment of its own ({ENVIRONMENTS[name].size}): "
            f"python -m autoprune.targets.environment {name}"
        )
    return str(_interpreter(folder))


def make(name: str) -> Path:
    """Make an environment, unless it is there; returns its folder.

    Raises:
        BadInput: there is none of this name.
        TargetError: it cannot be made; nothing is left of it.
    """
    from filelock import FileLock

    if name not in ENVIRONMENTS:
        raise BadInput(
            f"environment: got {name!r}, expected one of {', '.join(ENVIRONMENTS)}{nearest(name, ENVIRONMENTS)}"
        )
    folder = folder_of(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (folder / READY).is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        if ENVIRONMENTS[name].shares_ours:
            _share(folder)
        command = [
            str(_interpreter(folder)),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        done = subprocess.run(
            [*command, *ENVIRONMENTS[name].requirements], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TargetError(f"the environment {name} cannot be made: {reason[:SHOWN]}")
        (folder / READY).touch()
    return folder


def _share(folder: Path) -> None:
    """Let an environment find our packages behind its own."""
    ours = [path for path in site.getsitepackages() if Path(path).is_dir()]
    its = next(folder.glob("lib*/**/site-packages"))
    (its / "ours.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")


def ask(name: str, script: Path, request: Any, time_limit: float) -> Any:
    """What a script in an environment answers.

    Raises:
        MissingExtra: the environment was not made yet.
        TargetError: the script fails, is not done in time, or prints no JSON.
    """
    process = subprocess.Popen(
        [python_of(name), "-I", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(json.dumps(request), timeout=time_limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TargetError(f"{name} gave no answer in {time_limit:g} s") from None
    if process.returncode != 0:
        last = (complaints.strip().splitlines() or ["no message"])[-1]
        raise TargetError(f"{name} failed: {last[:SHOWN]}")
    try:
        return json.loads(printed.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise TargetError(f"{name} printed {printed[-SHOWN:]!r}, expected JSON") from None


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


if __name__ == "__main__":
    try:
        print(make(sys.argv[1] if len(sys.argv) == 2 else ""))
    except AutopruneError as error:
        sys.exit(f"autoprune: {error}")
