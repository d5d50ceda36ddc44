"""Files that make a cluster for a spec: for `ray up` on machines or at a cloud, and a `RayJob` for KubeRay.

Both take from the spec how many workers of which shapes there are, what each needs, and between which numbers the
cluster may grow and shrink. Both ask for a token. What a spec cannot know (hosts, instance types, an image) has a
default that says so, and is there to be edited.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from autoprune.cluster.jobs import files_below
from autoprune.errors import BadInput
from autoprune.references import search_spaces_folder
from autoprune.spec import Shape, Spec

IDLE_MINUTES = 5
HEAD = "head"
HEAD_BYTES = 8 * 2**30  # the driver, Ray's own processes, and the object store
WORKER_BYTES = 4 * 2**30  # of a worker of which the spec does not say how much it may hold
MOST_FILES_BYTES = 900_000  # what Kubernetes takes in one ConfigMap, less its own share
MOST_NAME = 40  # KubeRay adds to it, and takes 63 letters in all
TOKEN = "~/.ray/auth_token"


class Instance(NamedTuple):
    """A kind of machine at AWS: its name, and what it has."""

    name: str
    cpus: int
    gpus: int
    bytes: float


INSTANCES = tuple(
    Instance(name, cpus, gpus, gigabytes * 2**30)
    for name, cpus, gpus, gigabytes in (
        ("m5.large", 2, 0, 8),
        ("m5.xlarge", 4, 0, 16),
        ("m5.2xlarge", 8, 0, 32),
        ("m5.4xlarge", 16, 0, 64),
        ("m5.12xlarge", 48, 0, 192),
        ("g5.xlarge", 4, 1, 16),
        ("g5.2xlarge", 8, 1, 32),
        ("g5.4xlarge", 16, 1, 64),
        ("g5.12xlarge", 48, 4, 192),
        ("g5.48xlarge", 192, 8, 768),
    )
)


class Node(NamedTuple):
    """What a node for workers of one shape is made for.

    Attributes:
        workers: how many of them share it: as many as share a GPU, else one, so that what idles can be given back.
        resources: by Ray's names, in whole numbers; memory apart.
        bytes: memory of all of them.
        least, most: how many such nodes there are.
    """

    workers: int
    resources: dict[str, int]
    bytes: int
    least: int
    most: int


def node_for(shape: Shape) -> Node:
    """The node that workers of a shape need."""
    workers = max(1, int(1 / shape.gpus_per_worker)) if 0 < shape.gpus_per_worker < 1 else 1
    demands = {name: amount for name, amount in shape.demands.items() if name != "memory" and amount}
    resources = {name: max(1, math.ceil(round(workers * amount, 6))) for name, amount in demands.items()}
    resources.setdefault("CPU", 1)
    return Node(
        workers,
        resources,
        workers * (shape.memory or WORKER_BYTES),
        math.ceil(shape.workers.min / workers),
        math.ceil(shape.workers.max / workers),
    )


def ray_up(spec: Spec, hosts: Sequence[str] = ()) -> str:
    """A cluster file for `ray up`.

    Args:
        spec: its cluster is made.
        hosts: machines of one's own, the head first; without any, instances at AWS that are large enough.

    Raises:
        BadInput: no instance is large enough.
    """
    nodes = {name: node_for(shape) for name, shape in spec.cluster.by_name.items()}
    of_provider = _on(hosts, nodes) if hosts else _at_aws(nodes)
    start = "RAY_AUTH_MODE=token ray start"
    listed = {
        "cluster_name": _name(spec),
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        **of_provider,
        "file_mounts": {TOKEN: TOKEN},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": ["**/.git", "**/.git/**"],
        "initialization_commands": [],
        "setup_commands": [f"pip install {' '.join(map(repr, packages()))}"],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }
    return _written(
        listed,
        f"A Ray cluster for the search {spec.name!r}; Python {_python()} as here is expected on its machines.",
        "ray get-auth-token --generate          # once: the token lies in ~/.ray, and is copied to the machines",
        "ray up THIS_FILE; ray dashboard THIS_FILE   # the second one leaves a tunnel open",
        "autoprune submit SPEC --address http://127.0.0.1:8265",
        "ray down THIS_FILE",
        *_of_devices(spec),
    )


def _on(hosts: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Machines of one's own."""
    others = list(hosts[1:])
    resources = {name for node in nodes.values() for name in node.resources} - {"CPU", "GPU"}
    if resources:
        raise BadInput(
            f"cluster.resources: got {', '.join(sorted(resources))}, which `ray up` cannot give to single hosts; start "
            f"Ray there yourself, with `ray start --resources`"
        )
    return {
        "provider": {"type": "local", "head_ip": hosts[0], "worker_ips": others},
        "auth": {"ssh_user": "ubuntu"},
        "max_workers": len(others),
    }


def _at_aws(nodes: Mapping[str, Node]) -> dict[str, Any]:
    kinds = {
        name: {
            "resources": node.resources,
            "node_config": {"InstanceType": _instance(name, node).name},
            "min_workers": node.least,
            "max_workers": node.most,
        }
        for name, node in nodes.items()
    }
    # No worker runs beside the driver.
    head = {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m5.large"}, "max_workers": 0}
    return {
        "provider": {"type": "aws", "region": "us-west-2"},
        "auth": {"ssh_user": "ubuntu"},
        "available_node_types": {HEAD: head, **{f"worker-{name}": kind for name, kind in kinds.items()}},
        "head_node_type": HEAD,
        "max_workers": sum(node.most for node in nodes.values()),
    }


def _instance(name: str, node: Node) -> Instance:
    """The smallest instance that a node fits on."""
    cpus, gpus = node.resources.get("CPU", 0), node.resources.get("GPU", 0)
    for one in INSTANCES:
        if one.cpus >= cpus and one.gpus >= gpus and one.bytes >= node.bytes and bool(one.gpus) == bool(gpus):
            return one
    raise BadInput(
        f"cluster: a worker of the shape {name!r} needs {cpus} CPU, {gpus} GPU and {node.bytes / 1e9:.3g} GB, more "
        f"than any instance that is known here ({INSTANCES[-1].name} is the largest)"
    )


def rayjob(spec: Spec, image: str = "") -> str:
    """Manifests for KubeRay: the job, its files, and a volume for its run folder.

    Args:
        spec: the search; the files beside it become a ConfigMap.
        image: of all pods; it must have autoprune, and the Python and Ray of this machine.

    Raises:
        BadInput: the files beside the spec are too many for a ConfigMap.
    """
    name = _name(spec)
    run = f"/runs/{name}"
    files = {} if spec.folder.is_relative_to(search_spaces_folder()) else _files_of(spec)
    shipped = {**spec.to_json(), "folder": "/search"}
    shipped["cluster"]["address"] = "auto"
    files["autoprune-job.yaml"] = yaml.safe_dump(shipped, sort_keys=False).encode()
    keys = {path: f"file-{number}" for number, path in enumerate(files)}
    volume = {
        "name": "search",
        "configMap": {"name": name, "items": [{"key": keys[path], "path": path} for path in files]},
    }
    search = f"autoprune search /search/autoprune-job.yaml --run {run} --json"
    # A second try, on a new cluster, goes on from what the first one has found.
    command = f"sh -c 'if test -e {run}; then autoprune resume {run} --json; else {search}; fi'"
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "binaryData": {keys[path]: base64.b64encode(content).decode() for path, content in files.items()},
    }
    return "---\n".join(
        [
            _written(
                _claim(name),
                f"The search {spec.name!r} for KubeRay 1.5 or newer (which has authOptions).",
                f"The image needs autoprune {metadata.version('autoprune')}, Ray {metadata.version('ray')} and Python "
                f"{_python()}.",
                f"kubectl apply -f THIS_FILE; kubectl logs -f job/{name}",
                *_of_devices(spec),
            ),
            _written(config),
            _written(_job(name, command, _kuberay_cluster(spec, name, image, volume))),
        ]
    )


def _claim(name: str) -> dict[str, Any]:
    """The volume that run folders lie on; it outlives the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{name}-runs"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }


def _job(name: str, command: str, cluster: Mapping[str, Any]) -> dict[str, Any]:
    """A search on a cluster of its own, tried again when that is lost."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": command,
            "backoffLimit": 3,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submissionMode": "K8sJobMode",
            "rayClusterSpec": dict(cluster),
        },
    }


def _kuberay_cluster(spec: Spec, name: str, image: str, volume: Mapping[str, Any]) -> dict[str, Any]:
    """A head without workers, which holds the run folder, and a group of pods for each shape."""
    image = image or f"autoprune:{metadata.version('autoprune')}"
    mounts = [{"name": "search", "mountPath": "/search"}]
    runs = {"name": "runs", "persistentVolumeClaim": {"claimName": f"{name}-runs"}}
    head_mounts = [*mounts, {"name": "runs", "mountPath": "/runs"}]
    head = _pod(image, {"CPU": 2}, HEAD_BYTES, head_mounts, [dict(volume), runs])
    head["spec"]["securityContext"] = {
        "fsGroup": 1000
    }  # Ray's images do not run as root, and must write there
    shapes = spec.cluster.by_name.items()
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 60 * IDLE_MINUTES},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": head,
        },
        "workerGroupSpecs": [
            _group(shape, node_for(settings), image, mounts, volume) for shape, settings in shapes
        ],
    }


def _group(
    name: str, node: Node, image: str, mounts: list[dict[str, str]], volume: Mapping[str, Any]
) -> dict[str, Any]:
    """Pods for workers of one shape."""
    custom = {kind: amount for kind, amount in node.resources.items() if kind not in ("CPU", "GPU")}
    # KubeRay puts it on a command line between double quotes of its own.
    given = {"resources": json.dumps(json.dumps(custom))} if custom else {}
    return {
        "groupName": _dns(name),
        "replicas": node.least,
        "minReplicas": node.least,
        "maxReplicas": node.most,
        "rayStartParams": {"num-cpus": str(node.resources["CPU"]), **given},
        "template": _pod(image, node.resources, node.bytes, mounts, [dict(volume)]),
    }


def _pod(
    image: str,
    resources: Mapping[str, int],
    size: int,
    mounts: Sequence[Mapping[str, str]],
    volumes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    # Ray's own processes and the object store come on top of what the workers hold.
    limits = {"cpu": str(resources["CPU"]), "memory": f"{math.ceil(1.5 * size / 2**20)}Mi"}
    if resources.get("GPU"):
        limits["nvidia.com/gpu"] = str(resources["GPU"])
    container = {
        "name": "ray",
        "image": image,
        "resources": {"requests": dict(limits), "limits": limits},
        "volumeMounts": [dict(mount) for mount in mounts],
    }
    return {"spec": {"containers": [container], "volumes": [dict(volume) for volume in volumes]}}


def _files_of(spec: Spec) -> dict[str, bytes]:
    """The files beside a spec, by their path from there."""
    found: dict[str, bytes] = {}
    left = MOST_FILES_BYTES
    for path in files_below(spec.folder):
        left -= path.stat().st_size
        if left < 0:
            raise BadInput(
                f"{spec.folder} holds more than {MOST_FILES_BYTES / 1e6:g} MB, which is more than Kubernetes takes in "
                f"a ConfigMap; put the spec and its files into a folder of their own, and data into the image"
            )
        found[path.relative_to(spec.folder).as_posix()] = path.read_bytes()
    return found


def packages() -> list[str]:
    """What autoprune needs, at the versions of this machine, as pip takes it; autoprune comes with each job."""
    needed = [text for text in metadata.requires("autoprune") or () if "extra ==" not in text]
    names = [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in needed]
    pinned = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
    return [
        f"ray[default]=={metadata.version('ray')}",
        *(one for one in pinned if not one.startswith("ray==")),
    ]


def _of_devices(spec: Spec) -> list[str]:
    """How devices join that targets are measured on; nobody can start one."""
    return [
        f"on {device}: RAY_AUTH_MODE=token ray start --address=HEAD:6379 --num-cpus=0 "
        f"--resources='{json.dumps({device: 1})}'   # with the token in ~/.ray; until then its latency is modelled"
        for device in spec.devices
    ]


def _name(spec: Spec) -> str:
    return _dns(spec.name)[:MOST_NAME].strip("-")


def _dns(name: str) -> str:
    """A name as Kubernetes takes it."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return made if made[:1].isalpha() else f"search-{made}".strip("-")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _written(data: Mapping[str, Any], *comments: str) -> str:
    lines = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    return lines + yaml.safe_dump(_apart(data), sort_keys=False, allow_unicode=True, width=110)


def _apart(data: Any) -> Any:
    """A copy in which nothing is there twice, which YAML would write as a reference."""
    return json.loads(json.dumps(data))


def write(path: Path, text: str) -> None:
    """Put a file where there was none.

    Raises:
        BadInput: there is one, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from None
