"""How many networks that it has never seen go all the way, beside plain tools on the same networks.

    .venv/bin/python benchmarks/model_zoo.py [--only PATTERN] [--plain | --plain-alone] [--jobs 2] [--json FILE]

Every model of `zoo/` is built with random weights in a process of its own and has 120 seconds to be analysed, pruned
by half in every group that is proven, quantized to int8, exported to ONNX with parity, written as an artifact and
loaded again. It passes when nothing failed and at least 10 % of its parameters went. Two things are never allowed: a
traceback, and a pruned network that is not the dense one with channels zeroed (`zeroed.py`, which trusts only weights).
Prints a row for each model, then each family and the totals. Exits with 1 when a promise is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

LEFT = 0.9
"""Share of the parameters that may be left in a network that passes."""
PROMISED = 0.9
"""Share of the models that pass."""
STEPS = ("zeroed_check", "export", "int8", "parity", "load")
TOLD = "zoo: "
"""What a line begins with that a model's process says to the one that waits."""
Result = dict[str, Any]


def main() -> int:
    """Run the models asked for, print the table, and say whether the promises are kept."""
    arguments = parser().parse_args()
    if arguments.side:
        run_one(arguments.only, arguments.side)
        return 0
    import zoo

    chosen = zoo.models(arguments.only)
    if not chosen:
        print(f"no model's name or family fits {arguments.only!r}")
        return 2
    known = Results(arguments.json)

    def row(model: zoo.Model) -> Result:
        found: Result = {"name": model.name, "family": model.family, "transformer": model.is_transformer}
        for side in arguments.sides:
            found[side] = known.get(model.name, side) or in_process(model.name, side, arguments.seconds)
        known.add(found)
        print(line(found, arguments.sides), flush=True)
        return found

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(row, chosen))
    return 0 if summary(rows, arguments.sides) else 1


class Results:
    """What has been found so far, in a file, so that a long run can be broken off and taken up again.

    Args:
        file: where it is kept, if anywhere; what it holds already is not found out again.
    """

    def __init__(self, file: Path | None) -> None:
        self._file, self._lock = file, Lock()
        rows = json.loads(file.read_text()) if file and file.exists() else []
        self._rows: dict[str, Result] = {row["name"]: row for row in rows}

    def get(self, name: str, side: str) -> Result | None:
        """What is known about a model on one side."""
        found: Result | None = self._rows.get(name, {}).get(side)
        return found

    def add(self, row: Result) -> None:
        """Keep a row, beside what is known of the other side."""
        with self._lock:
            self._rows[row["name"]] = {**self._rows.get(row["name"], {}), **row}
            if self._file:
                self._file.write_text(json.dumps(list(self._rows.values()), indent=1))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    found.add_argument("--only", default="*", help="pattern of names or families, as in a shell")
    found.add_argument(
        "--plain",
        dest="sides",
        action="store_const",
        const=["ours", "plain"],
        default=["ours"],
        help="also by plain tools",
    )
    found.add_argument(
        "--plain-alone", dest="sides", action="store_const", const=["plain"], help="only by these"
    )
    found.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    found.add_argument("--seconds", type=float, default=120.0, help="for each model and side")
    found.add_argument("--json", type=Path, help="file of results; models that are in it are not run again")
    found.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    return found


def in_process(name: str, side: str, seconds: float) -> Result:
    """The result of one model on one side, from a process that is killed when its time is over."""
    command = [sys.executable, str(Path(__file__)), "--only", name, "--side", side]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        try:
            subprocess.run(command, stdout=out, stderr=errors, env=environment, timeout=seconds)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        out.seek(0)
        errors.seek(0)
        lines = [text.removeprefix(TOLD) for text in out if text.startswith(TOLD)]
        last_words = errors.read().strip().rpartition("\n")[2][:160]
    found: Result = {key: value for text in lines for key, value in json.loads(text).items()}
    found["seconds"] = round(time.monotonic() - start, 1)
    if late:
        found.setdefault("verdict", "timeout")
        found.setdefault("reason", f"not done after {seconds:.0f} s")
    found.setdefault("verdict", "traceback")
    found.setdefault("reason", last_words or "the process died")
    return found


def tell(**facts: Any) -> None:
    """Report to the process that waits; what is said later overrules what was said before."""
    print(TOLD + json.dumps(facts, default=str), flush=True)


def run_one(name: str, side: str) -> None:
    """In the process of one model: build it and go all the way."""
    import torch
    import zoo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    (model,) = [model for model in zoo.models(name) if model.name == name]
    try:
        network, example = model.build().eval(), model.inputs()
    except Exception as error:  # its library is missing, or of another version
        tell(verdict="not built", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        return
    (ours if side == "ours" else plain)(network, example)
    tell(peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def ours(network: Any, example: Any) -> None:
    """The chain by `autoprune.inspect`, then the zeroed-channel check."""
    from autoprune.errors import AutopruneError
    from autoprune.inspect import inspect

    try:
        found = inspect(network, example, deep=True)
    except AutopruneError as error:
        tell(verdict="refused", reason=str(error))
        return
    if found["problems"]:
        tell(verdict="refused", reason=found["problems"][0])
        return
    passes = all(found[step] is True for step in STEPS) and found["pruned_params"] <= LEFT * found["params"]
    facts = {key: found[key] for key in ("way", "params", "pruned_params", "parity_error", *STEPS)}
    tell(**facts, verdict="passes" if passes else "partial", reason="" if passes else obstacle(found))
    tell(**zeroed_by_us(network, example))


def obstacle(found: Result) -> str:
    """Why a model did not pass: the steps that failed, or else the layers that stay whole."""
    if found["reasons"]:
        return "; ".join(f"{step}: {why}" for step, why in found["reasons"].items())
    reasons = dict.fromkeys(layer["reason"] for layer in found["frozen"])
    return f"{len(found['frozen'])} layers stay: {'; '.join(reasons)}"


def zeroed_by_us(network: Any, example: Any) -> Result:
    """How far autoprune's cut is from the network with channels zeroed; a verdict only if that is wrong."""
    import zeroed

    from autoprune.structure import Observed, analyse, prepared
    from autoprune.structure.parametrize import fold_parametrizations

    zeroed.redraw(network)
    fold_parametrizations(network)
    structure = analyse(network, example)
    chosen = {group.name: range(0, group.units - 1, 2) for group in structure.free if group.units > 1}
    pruned = prepared(network, example, structure.way)
    dense = copy.deepcopy(pruned)
    try:
        Observed(pruned, example).cut(chosen)
        apart, moved = zeroed.compare(dense, pruned, example)
    except Exception as error:  # a cut that was promised and does not run is as wrong as one that differs
        return {"verdict": "wrong", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    found: Result = {"apart": apart, "moved": moved}
    if apart > zeroed.TOLERANCE:
        found |= {"verdict": "wrong", "reason": f"differs from the zeroed network by {apart:.2g}"}
    return found


def plain(network: Any, example: Any) -> None:
    """The chain by plain tools; each step counts alone, too, on what there is by then."""
    import plain_tools
    import zeroed

    zeroed.redraw(network)
    params = sum(p.numel() for p in network.parameters())
    pruned, failed = plain_tools.attempt(plain_tools.prune, network, example)
    facts: Result = {"params": params, "stage": "prune"}
    if pruned is not None:
        facts["pruned_params"] = sum(p.numel() for p in pruned.parameters())
        if facts["pruned_params"] > LEFT * params:
            failed = f"{facts['pruned_params'] / params:.0%} of the parameters are left"
        if zeroed.is_comparable(network, pruned):
            found, differs = plain_tools.attempt(zeroed.compare, network, copy.deepcopy(pruned), example)
            if differs or found.apart > zeroed.TOLERANCE:
                facts["wrong"] = differs or f"differs from the zeroed network by {found.apart:.2g}"
    tell(**facts, prune=not failed, verdict="fails", reason=failed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.onnx"
        for step, arguments in (("export", (pruned or network, example, file)), ("quantize", (file,))):
            _, why = plain_tools.attempt(getattr(plain_tools, step), *arguments)
            failed = failed or why
            tell(**{step: not why, "reason": failed})
            if why:
                tell(stage=step)
                return
    if not failed:
        tell(verdict="passes")


def line(row: Result, sides: Iterable[str]) -> str:
    """A row of the table."""
    parts = [f"{row['name']:44}"]
    for side in sides:
        found = row[side]
        whole, left = found.get("params"), found.get("pruned_params")
        share = f"{left / whole:4.0%}" if whole and left is not None else "   –"
        wrong = " (wrong)" if found.get("wrong") else ""
        parts.append(f"{side} {found['verdict'] + wrong:15} {share} left {found['seconds']:5.1f} s")
        parts += [f"{found['way']:6}"] if found.get("way") else []
        parts += [found.get("wrong") or found["reason"]] if found.get("reason") or found.get("wrong") else []
    return "  ".join(parts)


def share(rows: list[Result], side: str, *, right: bool = False) -> float:
    """How many of the models that could be built pass (and were not cut wrongly)."""
    built = [row[side] for row in rows if row[side]["verdict"] != "not built"]
    passed = [found for found in built if found["verdict"] == "passes" and not (right and found.get("wrong"))]
    return len(passed) / max(1, len(built))


def summary(rows: list[Result], sides: list[str]) -> bool:
    """Print each family and the totals; whether the promises are kept."""
    columns = [(side, side, False) for side in sides]
    columns += [("plain, right", "plain", True)] if "plain" in sides else []

    def print_shares(title: str, some: list[Result]) -> None:
        shares = [f"{share(some, side, right=right):{len(name) + 2}.0%}" for name, side, right in columns]
        print(f"{title:38}{len(some):7}  {'  '.join(shares)}")

    print(f"\n{'family':38}{'models':>7}  {'  '.join(f'{name:>{len(name) + 2}}' for name, _, _ in columns)}")
    for family in sorted({row["family"] for row in rows}):
        print_shares(family, [row for row in rows if row["family"] == family])
    print_shares("transformers", [row for row in rows if row["transformer"]])
    print_shares("all", rows)
    for side in sides:
        verdicts = [row[side]["verdict"] for row in rows]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
        wrong = sum(bool(row[side].get("wrong")) for row in rows)
        print(f"{side}: {counts}" + (f"; {wrong} cut wrongly and handed on" if wrong else ""))
    if "ours" not in sides:
        return True
    forbidden = any(row["ours"]["verdict"] in ("traceback", "wrong") for row in rows)
    return share(rows, "ours") >= PROMISED and not forbidden


if __name__ == "__main__":
    sys.exit(main())
