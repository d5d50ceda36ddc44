"""A search for two targets at once, and an artifact for each, in the formats that were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_spec import TINY_SPEC
from workers_here import searched_here

import autoprune
from autoprune.errors import BadInput, SpecError
from autoprune.study import Study

FAST = {"rounds": 2, "block_ms": 1.0}
SPEC: dict[str, Any] = {
    **TINY_SPEC,
    "space": {"quantize": {"weight_bits": [4, 32], "activation_bits": [8, 32], "quantizer": "ptq"}},
    "target": {"here": {"use": "onnxruntime", **FAST}, "intel": {"use": "openvino", **FAST}},
    "objectives": {"accuracy": "maximize", "latency_ms": "minimize", "latency_ms@intel": "minimize"},
    "constraints": ["energy_uj <= 100%", "latency_ms@here <= 100000"],
    "budget": {"trials": 4},
    "search": {"rungs": [0]},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return searched_here(SPEC, tmp_path_factory.mktemp("several") / "run")


def test_every_trial_has_the_figures_of_both(searched: Study) -> None:
    for trial in searched.front:
        assert trial.metrics["latency_ms"] == trial.metrics["latency_ms@here"] > 0
        assert trial.metrics["latency_ms@intel"] > 0
        assert trial.metrics["energy_uj@intel"] == trial.metrics["energy_uj"]
        assert trial.sources["latency_ms@intel"].startswith("measured")
        assert trial.sources["energy_uj@intel"].startswith("modelled")


def test_each_target_gets_an_artifact_that_is_proven(searched: Study, tmp_path: Path) -> None:
    folder = autoprune.export(searched.best(), tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["here", "intel"]
    for name, file, reader in (("here", "model.onnx", "onnx"), ("intel", "model.xml", "openvino")):
        metrics = json.loads((folder / name / "metrics.json").read_text())
        assert (folder / name / file).is_file()
        assert metrics["parity"][reader]["agreement"] == 100.0
        assert set(metrics["export"]) >= {"latency_ms", "energy_uj"}
        assert not any("@" in metric for metric in {**metrics["export"], **metrics["sources"]})
        assert metrics["sources"]["energy_uj"].startswith("modelled")
        autoprune.load(folder / name)


@pytest.mark.parametrize(
    "formats",
    [("onnx", "openvino"), pytest.param(("onnx", "openvino", "torch_export"), marks=pytest.mark.slow)],
    ids=len,
)
def test_formats_are_written_beside_each_other_and_proven(
    searched: Study, formats: tuple[str, ...], tmp_path: Path
) -> None:
    folder = autoprune.export(searched.best(), tmp_path / "out", formats=formats)
    parity = json.loads((folder / "intel" / "metrics.json").read_text())["parity"]
    assert all(parity[name]["agreement"] >= 99.5 for name in (*formats, "module"))


def test_an_artifact_can_be_its_weights_alone(searched: Study, tmp_path: Path) -> None:
    weights = autoprune.export(searched.best(), tmp_path / "weights", formats=("safetensors",))
    assert not any(path.suffix in (".onnx", ".xml") for path in (weights / "here").iterdir())


@pytest.mark.parametrize("formats", [("onx",), ("onnx", "safetensors"), ("pretrained", "onnx")], ids=str)
def test_formats_that_are_none_are_refused(searched: Study, formats: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="export: got the format"):
        autoprune.export(searched.best(), tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


def test_a_metric_of_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"objectives\.latency_ms@intl: got the metric .* among here, intel; did"
    ):
        autoprune.search({**SPEC, "objectives": {"latency_ms@intl": "minimize"}})
