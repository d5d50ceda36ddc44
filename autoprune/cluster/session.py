"""Starting, joining and leaving Ray, and what it has to offer.

A Ray that is started here listens on 127.0.0.1 only and asks for a token. A running one is asked, before it is
joined, whether it answers at all, which versions it has, and whether it lets in people without a token.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from autoprune.errors import BadInput
from autoprune.spec import Shape

PROBE_SECONDS = 9.0
RELEASE_SECONDS = 5.0  # what a pool before this one used comes free a moment after it was closed
UNPROTECTED = (
    "asks for no token, so that whoever reaches its ports can run code on it (CVE-2023-48022); start it with "
    "RAY_AUTH_MODE=token in the environment, after `ray get-auth-token --generate`"
)
# Without a token, whatever this user's environment says: what answers then answers everybody.
_PROBE = """
import json, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    found = GcsClient(address=sys.argv[1]).internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster", timeout=5)
except AuthenticationError:
    found = b'{"is_protected": true}'
print(found.decode())
"""


def is_running() -> bool:
    """Whether this process has a Ray already; asking does not import it, so that `start` can settle how it is."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def start(cpus: float) -> None:
    """Start a Ray that ends with this process, on this machine and for it alone."""
    if "ray" not in sys.modules:  # which reads it once; newer versions ask for a token by themselves
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    _settle()
    # A bare ray.init() would join whatever a stale address file points at.
    with _loopback():
        _init(address="local", num_cpus=max(1, math.ceil(cpus)), include_dashboard=False)


def join(address: str, warn: Callable[[str], None]) -> str:
    """Join a running Ray; returns the HOST:PORT of its head.

    Args:
        address: `auto` or HOST:PORT.
        warn: told when anybody may use the cluster.

    Raises:
        BadInput: nobody answers there, it has another version of Ray or Python, or it does not take the token.
    """
    head, is_protected = checked(address, warn)
    import ray

    try:
        with _loopback() if _is_on_loopback(head) else nullcontext():
            _init(address=head)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "; it asks for a token, expected in RAY_AUTH_TOKEN_PATH" if is_protected else ""
        raise BadInput(f"cluster.address: got {address!r}, it cannot be joined: {reason}{hint}") from None
    return head


def join_again(head: str, seconds: float) -> bool:
    """Join a cluster whose head was lost, once it is back; whether that was in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            join(head, lambda _: None)
        except BadInput:
            if time.monotonic() > end:
                return False
            time.sleep(1.0)
        else:
            return True


def checked(address: str, warn: Callable[[str], object]) -> tuple[str, bool]:
    """The HOST:PORT of the head of a running Ray that this process could join, and whether it asks for a token.

    Args:
        address: `auto` or HOST:PORT.
        warn: told when anybody may use the cluster.

    Raises:
        BadInput: nobody answers there, or it has another version of Ray or Python.
    """
    _settle()
    head = _find() if address == "auto" else address
    found = _probe(head)
    if found is None:
        raise BadInput(
            f"cluster.address: got {address!r}, no Ray cluster answers there; "
            f"`ray start --head --port 6379` starts one on this machine, and address: local one for the search alone"
        )
    is_protected = bool(found.get("is_protected"))
    if is_protected and "ray" not in sys.modules:  # which reads it once
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    ours = {"ray_version": ray.__version__, "python_version": ".".join(map(str, sys.version_info[:3]))}
    if problem := other_versions(found, ours):
        raise BadInput(f"cluster.address: got {address!r}, which runs {problem}")
    if not is_protected:
        warn(f"the cluster at {head} {UNPROTECTED}")
    return head, is_protected


def other_versions(found: Mapping[str, object], ours: Mapping[str, str]) -> str:
    """In which versions a cluster differs from here, and what to do; empty where it does not.

    Args:
        found: what it says of itself; one that asks for a token says nothing before it is joined.
        ours: `ray_version` and `python_version`.
    """
    other = [name for name in ours if found.get(name, ours[name]) != ours[name]]
    if not other:
        return ""
    listed = ", ".join(f"{name.partition('_')[0].capitalize()} {found[name]}" for name in other)
    here = ", ".join(f"{name.partition('_')[0].capitalize()} {ours[name]}" for name in other)
    return f"{listed}, expected {here} as here; use the same versions in both places"


def _init(**settings: Any) -> None:
    """`ray.init`, but for what it does to SIGTERM: who set a way to end cleanly, as the command line does, keeps it."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level="error", **settings)
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def answers(head: str, timeout: float = 2.0) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def identity(head: str) -> str:
    """The cluster behind HOST:PORT, which is another one after its head was restarted; empty where nobody answers."""
    import ray

    if not answers(head):
        return ""
    try:
        return str(ray._raylet.GcsClient(address=head).cluster_id.hex())
    except Exception:  # of Ray's client, while a head comes up
        return ""


def check_room(shapes: Mapping[str, Shape], without: Iterable[str] = ()) -> None:
    """Refuse what Ray would wait for in silence: more workers than fit, or a worker that no node is made for.

    Args:
        shapes: of workers.
        without: nodes with any of these resources are not for workers.

    Raises:
        BadInput: says what there is.
    """
    problems, every = [], {node["NodeID"]: node["Resources"] for node in nodes()}
    kept = [one for one in without if any(one in resources for resources in every.values())]
    ours = {node: found for node, found in every.items() if not any(one in found for one in kept)}
    there = list(ours.values())
    for name, shape in shapes.items():
        if shape.workers.min and not any(_fits(shape.demands, resources) for resources in there):
            beside = f" beside those with {', '.join(kept)}, which measure" if kept else ""
            problems.append(
                f"cluster: a worker of the shape {name!r} needs {_listed(shape.demands)}, which no node has{beside}; "
                f"there is {'; '.join(map(_listed, there)) or 'no node'}"
            )
    wanted: dict[str, float] = {}
    for shape in shapes.values():
        for kind, amount in shape.demands.items():
            wanted[kind] = wanted.get(kind, 0.0) + shape.workers.min * amount
    end = time.monotonic() + RELEASE_SECONDS
    while not problems and (lacking := _lacking(wanted, _free(ours))):
        if time.monotonic() > end or _lacking(wanted, _total(there)):
            problems = [
                f"cluster: {sum(s.workers.min for s in shapes.values())} workers need {wanted[kind]:g} {kind}, "
                f"{found:g} are free; set fewer workers, or {{min, max}} of them, or ask less for each"
                for kind, found in lacking.items()
            ]
        else:
            time.sleep(0.1)
    if problems:
        raise BadInput("\n".join(problems))


def _settle() -> None:
    """Settings that Ray reads when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def _loopback() -> Iterator[None]:
    """Have a Ray that is started or joined inside use 127.0.0.1, as it does by itself on macOS and Windows.

    `ray.init(_node_ip_address="127.0.0.1")` takes the machine's outer address instead.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _is_on_loopback(head: str) -> bool:
    """Whether a cluster listens on this machine's loopback and nowhere else; Ray would look on the outer address."""
    from ray._private.services import get_node_ip_address

    host, _, port = head.rpartition(":")
    is_here = host in ("localhost", "::1", "[::1]") or host.startswith("127.")
    return is_here and not answers(f"{get_node_ip_address()}:{port}")


def _find() -> str:
    """HOST:PORT of the cluster on this machine.

    Raises:
        BadInput: there is none, or more than one.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"cluster.address: got 'auto', no Ray cluster is found on this machine "
            f"({str(error).splitlines()[0]}); `ray start --head` starts one"
        ) from None


def _probe(head: str) -> dict[str, object] | None:
    """What a cluster says of itself to somebody without a token; None when none answers within ten seconds.

    In a process of its own: Ray's client goes on trying for most of a minute, and cannot be broken off.
    """
    if not answers(head, PROBE_SECONDS / 2):
        return None
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE, head],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=True,
        )
        found = json.loads(result.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return found if isinstance(found, dict) else None


def nodes() -> list[dict[str, Any]]:
    """The living nodes, as Ray lists them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _free(ours: Collection[str]) -> dict[str, float]:
    """What nobody has taken of some nodes."""
    from ray._private.state import available_resources_per_node

    return _total([free for node, free in available_resources_per_node().items() if node in ours])


def _total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """All of it together."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)  # which counts fractions as well
    return dict(total)


def _fits(demands: Mapping[str, float], there: Mapping[str, float]) -> bool:
    return all(amount <= there.get(kind, 0.0) for kind, amount in demands.items())


def _lacking(wanted: Mapping[str, float], there: Mapping[str, float]) -> dict[str, float]:
    """Of what is too little there is how much."""
    return {
        kind: there.get(kind, 0.0) for kind, amount in wanted.items() if amount > there.get(kind, 0.0) + 1e-9
    }


def _listed(resources: Mapping[str, float]) -> str:
    """Resources in words, without those that Ray keeps for itself and those of which nothing is asked."""
    shown = {
        kind: f"{amount / 1e9:.3g} GB memory" if kind == "memory" else f"{amount:g} {kind}"
        for kind, amount in sorted(resources.items())
        if amount and ":" not in kind and kind != "object_store_memory"
    }
    return ", ".join(shown.values()) or "nothing"
