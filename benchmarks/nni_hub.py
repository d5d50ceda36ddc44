"""The eleven model spaces of NNI's hub: how many of their networks go all the way.

    .venv/bin/python benchmarks/nni_hub.py [--only DARTS,PNAS] [--samples 2] [--seconds 300] [--json FILE]

Of each space, at a size for 32×32 pictures, the baseline and some random samples are made with random weights, each
in a process of its own: profiled (groups found and proven), half of every proven group cut and compared with zeroing
it, quantized to eight bits, exported to ONNX with parity, written as an artifact, and loaded again without NNI. Samples
that a space's own constraints exclude are drawn again and counted. Prints a row for each network, and what failed.
Exits with 1 unless every space was sampled and exported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SMALL = {
    "AmoebaNet": "width=[8, 16]&num_cells=[3, 6]",
    "AutoFormer": "num_labels=10&img_size=32&patch_size=4&search_embed_dim=[48, 64]&search_depth=[2, 3]"
    "&search_num_heads=[2, 4]",
    "DARTS": "width=[8, 16]&num_cells=[3, 6]",
    "ENAS": "width=[8, 16]&num_cells=[3, 6]",
    "MobileNetV3Space": "num_labels=10&stride=[1, 1, 2, 2, 2, 1, 2, 1, 1]",
    "NASNet": "width=[8, 16]&num_cells=[3, 6]",
    "NasBench101": "stem_out_channels=16&num_modules_per_stack=1",
    "NasBench201": "stem_out_channels=8&num_modules_per_stack=1",
    "PNAS": "width=[8, 16]&num_cells=[3, 6]",
    "ProxylessNAS": "num_labels=10",
    "ShuffleNetSpace": "num_labels=10",
}
"""Arguments that make a space fit pictures of 32×32 pixels and two cores."""

INPUT = "1x3x32x32"
STEPS = ("zeroed_check", "export", "int8", "parity", "load")
TRIES = 200
Row = dict[str, Any]


def sampled(reference: str, count: int) -> tuple[list[str], int]:
    """References to the baseline and to `count` random samples of a space, and how many draws it excluded."""
    from autoprune.errors import NoNetwork
    from autoprune.task.model_space import space_of
    from autoprune.task.sources import model_factory

    factory, generator = space_of(model_factory(reference)), np.random.default_rng(0)
    assert factory is not None
    found, excluded = [reference], 0
    for _ in range(TRIES):
        if len(found) > count:
            break
        point = {
            name: one.values[int(generator.integers(len(one.values)))]
            for name, one in factory.options.items()
        }
        try:
            factory(**point)
        except NoNetwork:
            excluded += 1
            continue
        found.append(f"{reference}&{'&'.join(f'{name}={value}' for name, value in point.items())}")
    return found, excluded


def all_the_way(reference: str) -> Row:
    """What became of one network; runs in a process of its own."""
    import torch

    from autoprune import api

    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.perf_counter()
    found = api.check(reference, inputs=[INPUT], deep=True)
    assert isinstance(found, dict)
    return {**found, "seconds": time.perf_counter() - started}


def in_process(reference: str, seconds: float) -> Row:
    """The row of one network, with the reason where there is none."""
    command = [sys.executable, __file__, "--one", reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"problems": [f"not done after {seconds:g} s"]}
    if done.returncode:
        return {"problems": [done.stderr.strip().splitlines()[-1][:300]]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def line(name: str, number: int, row: Row) -> str:
    """One row of the table."""
    which = "baseline" if number == 0 else f"sample {number}"
    if "export" not in row:
        return f"{name:17} {which:9} {'; '.join(row['problems'])}"
    proven = sum(bool(group.get("proven")) for group in row["groups"])
    steps = " ".join(f"{step} {'yes' if row[step] else 'NO'}" for step in STEPS)
    left = row["pruned_params"] / row["params"]
    return (
        f"{name:17} {which:9} {row['params']:9,} params, {len(row['groups']):3} groups ({proven} proven), "
        f"{left:4.0%} left; {steps}; parity {row['parity_error']:.1e}; {row['seconds']:.0f} s"
    )


def main() -> int:
    """Run all spaces and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SMALL))
    parser.add_argument("--samples", type=int, default=2, help="random networks of each space")
    parser.add_argument("--seconds", type=float, default=300, help="for each network")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(all_the_way(options.one)))
        return 0
    rows: dict[str, list[Row]] = {}
    for name in options.only:
        references, excluded = sampled(f"nni:{name}?{SMALL[name]}", options.samples)
        rows[name] = []
        for number, reference in enumerate(references):
            row = in_process(reference, options.seconds)
            rows[name].append(row)
            print(line(name, number, row), flush=True)
            for step, reason in row.get("reasons", {}).items():
                print(f"    {step}: {reason[:200]}", flush=True)
        if excluded:
            print(f"{name:17} {excluded} draws excluded by its own constraints", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if summary(rows) else 1


def summary(rows: dict[str, list[Row]]) -> bool:
    """Print how many spaces were sampled, pruned, quantized and exported; whether all were exported."""
    count = {
        "sampled": [name for name, found in rows.items() if any("export" in row for row in found)],
        "pruned": [
            name
            for name, found in rows.items()
            if any(r.get("pruned_params", 1) < r.get("params", 0) for r in found)
        ],
        **{step: [n for n, found in rows.items() if all(r.get(step) for r in found)] for step in STEPS[1:]},
    }
    for step, names in count.items():
        missing = [name for name in rows if name not in names]
        print(f"{step:9} {len(names)} of {len(rows)}" + (f" (not {', '.join(missing)})" if missing else ""))
    return len(count["sampled"]) == len(count["export"]) == len(rows)


if __name__ == "__main__":
    sys.exit(main())
