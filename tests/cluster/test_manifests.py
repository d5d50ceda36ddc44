"""Cluster files: filled from a spec, and what `ray up` and KubeRay take."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from autoprune.cluster.manifests import node_for, packages, ray_up, rayjob, write
from autoprune.errors import BadInput
from autoprune.spec import Spec, load_spec

SHAPES: dict[str, Any] = {
    "shapes": {
        "small": {"workers": {"min": 2, "max": 8}, "cpus_per_worker": 1.5, "memory": "6GB"},
        "large": {
            "workers": {"min": 0, "max": 5},
            "gpus_per_worker": 0.5,
            "cpus_per_worker": 2,
            "resources": {"fast": 1},
        },
    },
    "rungs": ["small", "large"],
}

# What KubeRay documents of the fields that are used here (ray.io/v1, KubeRay 1.5).
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "properties": {
                            "resources": {
                                "properties": {
                                    kind: {"type": "object", "additionalProperties": {"type": "string"}}
                                    for kind in ("limits", "requests")
                                }
                            }
                        },
                    },
                }
            },
        }
    },
}
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
GROUP = {
    "type": "object",
    "required": ["groupName", "minReplicas", "maxReplicas", "template"],
    "additionalProperties": False,
    "properties": {
        "groupName": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": PARAMETERS,
        "template": POD,
    },
}
CLUSTER = {
    "type": "object",
    "required": ["headGroupSpec"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"},
        "authOptions": {"properties": {"mode": {"enum": ["disabled", "token"]}}},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {"properties": {"idleTimeoutSeconds": {"type": "integer"}}},
        "headGroupSpec": {
            "required": ["template"],
            "properties": {"rayStartParams": PARAMETERS, "template": POD},
        },
        "workerGroupSpecs": {"type": "array", "items": GROUP},
    },
}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "spec": {
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "backoffLimit": COUNT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "rayClusterSpec": CLUSTER,
            },
        },
    },
}


def spec_in(folder: Path, **fields: Any) -> Spec:
    (folder / "task.py").write_text("Task = None\n", encoding="utf-8")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "x.bin").write_bytes(b"\x00\xff")
    given = {
        "name": "My_Search",
        "task": "task.py:Task",
        "budget": {"trials": 1},
        "search": {"rungs": [0, 1]},
        "cluster": SHAPES,
        **fields,
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return load_spec(folder / "spec.yaml")


def checked_by_ray(text: str) -> dict[str, Any]:
    """A cluster file, once Ray's own schema and `ray up` have taken it."""
    import ray
    from ray.autoscaler._private.local.config import prepare_local
    from ray.autoscaler._private.util import validate_config

    found: dict[str, Any] = yaml.safe_load(text)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(found, schema)
    validate_config(prepare_local(found)[0] if found["provider"]["type"] == "local" else found)
    return found


def test_a_node_holds_the_workers_that_share_a_gpu(tmp_path: Path) -> None:
    shapes = spec_in(tmp_path).cluster.by_name
    small, large = node_for(shapes["small"]), node_for(shapes["large"])
    assert (small.workers, small.resources, small.least, small.most) == (1, {"CPU": 2}, 2, 8)
    assert (large.workers, large.resources, large.most) == (2, {"CPU": 4, "GPU": 1, "fast": 2}, 3)


def test_ray_up_takes_the_file_and_it_says_what_the_spec_says(tmp_path: Path) -> None:
    found = checked_by_ray(ray_up(spec_in(tmp_path)))
    kinds = found["available_node_types"]
    assert found["cluster_name"] == "my-search" and found["max_workers"] == 11
    assert (kinds["worker-small"]["min_workers"], kinds["worker-small"]["max_workers"]) == (2, 8)
    assert kinds["worker-small"]["node_config"]["InstanceType"] == "m5.large"
    assert kinds["worker-large"]["resources"] == {"CPU": 4, "GPU": 1, "fast": 2}
    assert kinds["worker-large"]["node_config"]["InstanceType"] == "g5.xlarge"
    assert all("RAY_AUTH_MODE=token" in found[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker"))


def test_ray_up_on_machines_of_one_s_own(tmp_path: Path) -> None:
    found = checked_by_ray(ray_up(spec_in(tmp_path, cluster={"workers": 2}), ["10.0.0.1", "10.0.0.2"]))
    assert found["provider"] == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    with pytest.raises(BadInput, match="got fast, which `ray up` cannot give"):
        ray_up(spec_in(tmp_path), ["10.0.0.1"])


def test_what_is_larger_than_any_instance_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs 999 CPU"):
        ray_up(spec_in(tmp_path, cluster={"workers": 1, "cpus_per_worker": 999}))


def test_kuberay_takes_the_job_and_it_brings_its_files(tmp_path: Path) -> None:
    claim, config, job = yaml.safe_load_all(rayjob(spec_in(tmp_path), image="mine:1"))
    jsonschema.validate(job, RAYJOB)
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    search, runs = head["volumes"]
    there = {item["path"]: config["binaryData"][item["key"]] for item in search["configMap"]["items"]}
    assert base64.b64decode(there["data/x.bin"]) == b"\x00\xff" and "task.py" in there
    shipped = yaml.safe_load(base64.b64decode(there["autoprune-job.yaml"]))
    assert (shipped["folder"], shipped["cluster"]["address"]) == ("/search", "auto")
    assert runs["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == "my-search-runs"
    large, small = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]  # by name, as YAML wrote the spec
    assert (small["minReplicas"], small["maxReplicas"], large["maxReplicas"]) == (2, 8, 3)
    limits = large["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert json.loads(json.loads(large["rayStartParams"]["resources"])) == {"fast": 2}


def test_both_files_say_how_a_device_joins(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, target={"use": "onnxruntime", "resource": "pi4"})
    for text in (ray_up(spec), rayjob(spec)):
        told = [line for line in text.splitlines() if line.startswith("# on pi4: ")]
        assert len(told) == 1 and """--resources='{"pi4": 1}'""" in told[0]
    checked_by_ray(ray_up(spec))


def test_more_files_than_a_configmap_holds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(1_000_000))
    with pytest.raises(BadInput, match="more than Kubernetes takes"):
        rayjob(spec_in(tmp_path))


def test_packages_are_those_of_this_machine() -> None:
    found = dict(one.split("==") for one in packages())
    assert "ray[default]" in found and "+" not in found["torch"] and "nni" not in found


def test_a_name_from_outside_stays_in_its_place(tmp_path: Path) -> None:
    text = rayjob(spec_in(tmp_path, name="a.b-9_"))
    assert next(yaml.safe_load_all(text))["metadata"]["name"] == "a-b-9-runs"


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "x")
    with pytest.raises(BadInput, match="File exists"):
        write(tmp_path / "a.yaml", "y")
