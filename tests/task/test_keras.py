"""A network of Keras 3 on torch comes in as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
NET = """
import keras
from keras import layers


def net(width=8):
    conv = [layers.Conv2D(width, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    return keras.Sequential([keras.Input((8, 8, 1)), *conv, layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)])
"""


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `autoprune check` says of it; Keras has one backend in a process."""
    (folder / "net.py").write_text(NET)
    command = [sys.executable, "-m", "autoprune.cli", "check", "net.py:net", "--input", "1x8x8x1", "--deep"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_network_of_keras_is_pruned_exported_and_loaded(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    for step in ("zeroed_check", "export", "parity", "load"):
        assert f"ok      {step}" in done.stdout
    assert "8  channels" in done.stdout
