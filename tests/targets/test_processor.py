"""What the processor says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.targets.processor import adds_bytes_exactly, processor_name


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("sse4_2 avx2", False), ("avx2 avx512f avx512_vnni", True), ("avx2 avx_vnni", True), ("asimd", True)],
)
def test_saturation_follows_from_the_flags(tmp_path: Path, flags: str, exact: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    assert adds_bytes_exactly(tmp_path / "cpuinfo") is exact


def test_a_machine_without_a_description_tells_nothing(tmp_path: Path) -> None:
    assert adds_bytes_exactly(tmp_path / "cpuinfo") is None


def test_the_model_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : A B 1\nflags : fpu\n")
    assert processor_name(tmp_path / "cpuinfo") == "model name : A B 1"
