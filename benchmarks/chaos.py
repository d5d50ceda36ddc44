"""A search under fire: real trials on several Ray nodes while workers, nodes and the driver are killed at random.

    make chaos
    .venv/bin/python benchmarks/chaos.py [--trials N] [--kills K] [--seed S] [--minutes M]
        [--run s3://bucket/chaos] [--storage postgresql://USER@HOST:PORT/DATABASE]

A head without workers and three nodes run on this machine, on 127.0.0.1, with a token and a folder of their own. A
driver searches on them (the embedded digits, 1-CPU workers, two rungs) and writes down each evaluation that it was told
is on record. Meanwhile, in an order that the seed gives and at a pace that the progress gives, workers are killed
(SIGKILL), told to leave (SIGTERM) or stopped (SIGSTOP: they hang), nodes are killed and others join, and the driver is
killed and resumed. The run folder lies in the temporary folder, or behind a URL; the study in it, or in a database.

It prints what was killed, how long a killed driver takes to have something to do again, Ray's own start included, and
what became of the evaluations, and exits with 1 unless every evaluation that was told of is in the study exactly once,
the front is that of the recorded evaluations, each trial of it has its checkpoint, the
budget was spent to within what was in flight, and neither a process nor a half-written file is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

WORKERS, NODES, PORT = 2, 3, 26411
HEARTBEAT = 8.0
KINDS = {"worker": 14, "preempted worker": 3, "hung worker": 2, "node": 5, "driver": 6}
MARK = "AUTOPRUNE_CHAOS"
SPEC: dict[str, Any] = {
    "name": "chaos",
    "task": "digits",
    "space": {"prune": {"ratio": [0.0, 0.8]}, "quantize": {"weight_bits": [4, 8, 32]}},
    "target": {"use": "onnxruntime", "rounds": 2, "block_ms": 1.0},
    "train": {"epochs": 4},
    "objectives": {"accuracy": "maximize", "size_bytes": "minimize"},
    "search": {"rungs": [0, 1], "profile": "costs", "sampler": "evolution"},
}


# -- the driver: a process of its own ------------------------------------------------------------------------------


def drive(run: str, witness: Path, address: str, trials: int, storage: str) -> None:
    """Search, or go on with a search, and note what is told to be on record."""
    import autoprune

    def note(kind: str, payload: dict[str, Any]) -> None:
        if kind in ("warning", "preparing"):
            print(payload["what"], flush=True)
        if kind == "started":
            with witness.with_name("started").open("a") as file:
                file.write(f"{time.time()}\n")
        if kind in ("evaluated", "rejected", "failed"):
            trial = payload["trial"]
            with witness.open("a") as file:
                file.write(f"{trial.number} {max(trial.evaluations)}\n")

    if witness.exists():  # something was recorded, so there is a study
        autoprune.resume(run, on_event=note)
        return
    cluster = {"address": address, "workers": WORKERS, "heartbeat_seconds": HEARTBEAT}
    spec = {
        **SPEC,
        "budget": {"trials": trials},
        "cluster": cluster,
        **({"storage": storage} if storage else {}),
    }
    autoprune.search(spec, run=run, on_event=note)


# -- the one who kills ---------------------------------------------------------------------------------------------


class Fire:
    """A cluster, a driver on it, and what is done to them."""

    def __init__(self, folder: Path, trials: int, seed: int, run: str, storage: str) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.trials, self.random = folder, trials, random.Random(seed)
        self.run, self.storage = run or str(folder / "run"), storage
        self.witness, self.killed = folder / "witness", Counter[str]()
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "gcs_server_port": PORT,
            "temp_dir": str(folder / "ray"),
        }
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "node_ip_address": "127.0.0.1"})
        self.nodes = [self._node() for _ in range(NODES)]
        self._driver_died: list[float] = []
        self.driver = self._drive()

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")

    def _drive(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).resolve()), "--drive", self.run, str(self.witness)]
        command += [self.cluster.address, str(self.trials), self.storage]
        with (self.folder / "driver.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill something; what is not there to be killed is left for another time."""
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self._driver_died.append(time.time())
            self.driver = self._drive()
        elif kind == "node":
            node = self.nodes.pop(self.random.randrange(len(self.nodes)))
            with contextlib.suppress(ProcessLookupError):
                node.kill_raylet()
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self._node())
        else:
            workers = [process for process in processes() if title(process).startswith("ray::Worker")]
            if not workers:
                return
            send = {
                "worker": signal.SIGKILL,
                "preempted worker": signal.SIGTERM,
                "hung worker": signal.SIGSTOP,
            }
            os.kill(self.random.choice(sorted(workers)), send[kind])
        self.killed[kind] += 1

    def noted(self) -> list[tuple[int, int]]:
        """(trial, rung) of each evaluation that the driver was told is on record."""
        lines = self.witness.read_text().splitlines() if self.witness.exists() else []
        return [(int(trial), int(rung)) for trial, rung in (line.split() for line in lines)]

    def resumed(self) -> list[float]:
        """Seconds from each death of a driver until a successor had something to do; killed ones are passed over."""
        starts = [float(line) for line in self.witness.with_name("started").read_text().split()]
        ends = [*self._driver_died[1:], time.time()]
        found = []
        for died, end in zip(self._driver_died, ends, strict=True):
            found += [one - died for one in starts if died < one < end][:1]
        return found

    def burn(self, kills: int, deadline: float) -> None:
        """Kill at the pace of the search until it is over."""
        while self.driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            progress = len({trial for trial, _ in self.noted()}) / self.trials
            if sum(self.killed.values()) < min(kills, 1 + progress * kills / 0.85) and progress:
                self.kill()
                time.sleep(1.0)

    def end(self) -> None:
        """Take everything down."""
        if self.driver.poll() is None:
            self.driver.kill()
        self.driver.wait()
        self.cluster.shutdown()


def processes() -> list[int]:
    """Every process that this script started, by any way."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def title(process: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


# -- what became of it ---------------------------------------------------------------------------------------------


def stored(folder: Path) -> list[Any]:
    """What Optuna reads by itself from the storage of a run folder."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if (folder / "study.journal").exists():
        journal = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
        return journal.get_all_trials(journal.get_all_studies()[0]._study_id)
    place = json.loads((folder / "storage.json").read_text())
    database = RDBStorage(place["url"].replace("postgresql:", "postgresql+psycopg:", 1))
    return database.get_all_trials(database.get_study_id_from_name(place["study"]))


def judge(run: str, noted: list[tuple[int, int]], trials: int) -> dict[str, Any]:
    """What was recorded, lost and duplicated, and what is wrong with the study."""
    from safetensors.numpy import load

    from autoprune.study import Study

    study = Study.open(run)
    done = [one for one in stored(study.folder) if one.state.is_finished()]
    recorded = Counter((one.user_attrs["trial"], one.user_attrs["rung"]) for one in done)
    latest: dict[int, tuple[int, list[float]]] = {}
    for one in done:
        if one.values is not None:
            number, rung = one.user_attrs["trial"], one.user_attrs["rung"]
            latest[number] = max(latest.get(number, (-1, [])), (rung, one.values))
    points = {number: (-values[0], values[1]) for number, (_, values) in latest.items()}
    front = {n for n, p in points.items() if not any(_dominates(q, p) for q in points.values())}
    # Of trials with equal figures the study shows one.
    apart = {points[trial.number] for trial in study.front} ^ {points[number] for number in front}
    unreadable = [t.number for t in study.front if not load(study.load_checkpoint(t.number) or b"")]
    return {
        "completed": len(done),
        "lost": sum(pair not in recorded for pair in noted),
        "duplicated": sum(count - 1 for count in recorded.values())
        + sum(count - 1 for count in Counter(noted).values()),
        "failed": sum(trial.state == "failed" for trial in study.trials),
        "results": len(study.results),
        "state": study.state,
        "front": len(study.front),
        "problems": [
            *([f"the front is not that of the record: {sorted(apart)}"] if apart else []),
            *([f"checkpoints of {unreadable} are missing"] if unreadable else []),
            *([] if abs(len(study.results) - trials) <= WORKERS else ["the budget was not kept"]),
            *([] if study.state == "finished" else [f"the search is {study.state}"]),
            *[f"{path} is half-written" for path in study.folder.rglob("*.tmp")],
        ],
    }


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def main() -> int:
    """Set it up, burn it down, and look at what is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--run", default="", help="the URL of a run folder that is not there yet")
    parser.add_argument("--storage", default="", help="the URL of a database")
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        run, witness, address, trials, storage = options.drive
        drive(run, Path(witness), address, int(trials), storage)
        return 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        token = folder / "token"
        token.write_text("".join(random.SystemRandom().choices("0123456789abcdef", k=64)))
        token.chmod(0o600)
        os.environ |= {MARK: name, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        fire = Fire(folder, options.trials, options.seed, options.run, options.storage)
        try:
            fire.burn(options.kills, start + 60 * options.minutes)
        finally:
            fire.end()
        found = judge(fire.run, fire.noted(), options.trials)
        resumed = fire.resumed()
        if found["problems"]:
            print((folder / "driver.log").read_text()[-3000:], file=sys.stderr)
        time.sleep(2.0)
        left = [title(process) for process in processes()]
        for process in processes():
            os.kill(process, signal.SIGKILL)
    kills = sum(fire.killed.values())
    problems = found.pop("problems") + [f"a process is left: {one[:80]}" for one in left]
    problems += [] if kills >= options.kills else [f"only {kills} were killed"]
    print(f"seed {options.seed}, {time.monotonic() - start:.0f} s")
    print(f"killed {kills}: {', '.join(f'{count} × {kind}' for kind, count in fire.killed.most_common())}")
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if resumed:
        print(
            f"a killed driver was followed after {min(resumed):.1f} to {max(resumed):.1f} s, by one that dispatches"
        )
    for problem in problems:
        print(problem)
    return 1 if problems or found["lost"] or found["duplicated"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
