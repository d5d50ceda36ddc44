"""Bad input in the ten thousands: whatever is done to a spec, a run folder or an artifact, the answer is a clean error.

    .venv/bin/python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--only spec,text,run,artifact]

Hypothesis edits good ones: a part of a document is replaced by anything, taken away, repeated or renamed (`spec`, the
structure of an `artifact`, whose hashes are made anew so that they do not stop it), or bytes are (`text` of a spec, the
journal of a `run`). What is accepted nevertheless is fine; an `AutopruneError` is fine; anything else is a bug, printed
with the smallest input that shows it, and the script exits with 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from autoprune.errors import AutopruneError

SHARES = {"spec": 0.6, "text": 0.25, "run": 0.05, "artifact": 0.1}
SPEC: dict[str, Any] = {
    "name": "fuzzed",
    "task": {"use": "digits"},
    "space": {
        "architecture": {"width": [0.5, 1.0], "depth": 3},
        "prune": {
            "ratio": [0.0, 0.5],
            "criterion": ["l1", "taylor"],
            "exclude": ["stem*"],
            "schedule": "agp",
        },
        "sparsify": {"sparsity": {"low": 0.0, "high": 0.9}, "pattern": ["unstructured", "2:4"]},
        "distill": {"temperature": {"options": [2, 4]}, "kd_weight": 0.5},
        "quantize": {"weight_bits": [4, 8], "quantizer": ["ptq", "qat"], "fixed": {"classifier": 8}},
        "train": {"learning_rate": [0.001, 0.1]},
    },
    "train": {"epochs": 0, "optimizer": "adamw", "precision": "auto"},
    "target": {"use": "onnxruntime", "threads": 2},
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "constraints": ["accuracy >= baseline - 1.0", "size_bytes <= 25%"],
    "budget": {"trials": 10, "minutes": 0.5, "money": 3.0, "soft": 0.9},
    "search": {"sampler": "nsga2", "rungs": [0, 2], "reduction": 2, "revalidate": {"best": 2, "seeds": 2}},
    "cluster": {
        "address": "auto",
        "shapes": {
            "small": {"workers": {"min": 1, "max": 4}, "memory": "2GB", "price": 1},
            "large": {"price": 2.5},
        },
        "rungs": ["small", "large"],
    },
    "seed": 7,
}
NASTY: list[Any] = [
    *(
        "",
        "\x00",
        "../../etc/passwd",
        "/dev/zero",
        "file.py:Name",
        "a" * 5000,
        "\ud800",
        "<script>",
        "1e999",
        "%s",
    ),
    *(
        float("nan"),
        float("inf"),
        -1,
        0,
        2**70,
        1e308,
        True,
        False,
        None,
        [],
        {},
        [[[[]]]],
        {"use": None},
        {"": ""},
    ),
]


def anything(number: int) -> Any:
    """Any plain data, drawn by a number: hypothesis itself would take longer for it than a spec does to be refused."""
    return _drawn(random.Random(number), 3)


def _drawn(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(8 if depth else 6)
    if kind < 2:
        return copy.deepcopy(rng.choice(NASTY))
    if kind == 2:
        return rng.randrange(-(10 ** rng.randrange(20)), 10 ** rng.randrange(20))
    if kind == 3:
        return struct.unpack("d", rng.randbytes(8))[0]
    if kind < 6:
        return "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x11000)))) for _ in range(rng.randrange(20))
        )
    parts = [_drawn(rng, depth - 1) for _ in range(rng.randrange(4))]
    return parts if kind == 6 else {str(_drawn(rng, 0))[:8]: part for part in parts}


EDITS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(["replace", "drop", "repeat", "rename"]),
        st.integers(0, 2**32 - 1).map(anything),
    ),
    min_size=1,
    max_size=4,
)
CUTS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=4
)


def edited(document: Any, edits: list[tuple[int, str, Any]]) -> Any:
    """A copy of a document of dicts and lists, with something done to some of its parts."""
    document = copy.deepcopy(document)
    for where, how, value in edits:
        places = list(_places(document))
        if not places:
            return value
        parent, key = places[where % len(places)]
        if how == "drop":
            del parent[key]
        elif how == "replace":
            parent[key] = value
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[value if isinstance(value, str | int | float | None) else "other"] = copy.deepcopy(
                parent[key]
            )
    return document


def _places(part: Any) -> Any:
    """(parent, key) of everything in a document."""
    keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
        yield part, key
        yield from _places(part[key])


def spliced(content: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes, some of them taken out and others put in."""
    for where, length, put in cuts:
        start = where % (len(content) + 1)
        content = content[:start] + put + content[start + length :]
    return content


# -- what is fuzzed ------------------------------------------------------------------------------------------------


def fuzz_spec(folder: Path) -> tuple[Any, Callable[[Any], object]]:
    """A spec as plain data."""
    from autoprune.spec import Spec, load_spec

    def read(edits: Any) -> None:
        spec = load_spec(edited(SPEC, edits))
        if Spec.from_yaml(spec.to_yaml()).to_json() != spec.to_json():
            raise RuntimeError(f"is not read back as it was written: {spec.to_yaml()}")

    return EDITS, read


def fuzz_text(folder: Path) -> tuple[Any, Callable[[Any], object]]:
    """The YAML file of a spec, as bytes."""
    import yaml

    from autoprune.spec import load_spec

    whole, path = yaml.safe_dump(SPEC).encode(), folder / "spec.yaml"

    def read(cuts: Any) -> None:
        path.write_bytes(spliced(whole, cuts))
        load_spec(path)

    return CUTS, read


def fuzz_run(folder: Path) -> tuple[Any, Callable[[Any], object]]:
    """The journal of a run folder, and what is asked of it."""
    from autoprune.record import Evaluation, Request
    from autoprune.space import Range, Space
    from autoprune.spec import load_spec
    from autoprune.study import Study

    space, baseline = Space({"prune.a.ratio": Range(0.0, 0.8, 0.0)}), {"accuracy": 90.0, "macs": 10.0}
    spec = load_spec({"task": "digits", "budget": {"trials": 4}, "objectives": {"accuracy": "maximize"}})
    with Study.create(folder / "run", spec, space, {}, baseline) as study:
        for number in range(4):
            point = {"prune.a.ratio": number / 10}
            layers = [{"name": "a", "macs": 10}, {"name": "b", "macs": number}]
            study.record(
                Request(number, 0, point),
                Evaluation(
                    number,
                    0,
                    "finished",
                    point,
                    {"accuracy": 90.0 - number},
                    point,
                    {"layers": layers},
                    seconds={"total": 1.0},
                ),
            )
    path = folder / "run" / "study.journal"
    whole = path.read_bytes()

    def read(cuts: Any) -> None:
        path.write_bytes(spliced(whole, cuts))
        Study.open(folder / "run").status()

    return CUTS, read


def fuzz_artifact(folder: Path) -> tuple[Any, Callable[[Any], object]]:
    """The structure of an artifact whose hashes are right."""
    import torch
    from torch import nn

    from autoprune.export.artifact import Contents, write_artifact
    from autoprune.stored import load
    from autoprune.stored.reading import identity_of

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    figures = {name: {"accuracy": 90.0} for name in ("search", "export", "baseline")}
    contents = Contents(net, torch.zeros(1, 1, 8, 8), {}, {"architecture": {}}, figures, {})
    out = write_artifact(folder / "out", contents)
    structure, manifest = (
        json.loads((out / f"{name}.json").read_text()) for name in ("structure", "manifest")
    )

    def read(edits: Any) -> None:
        try:
            text = json.dumps(edited(structure, edits))
        except (TypeError, ValueError):  # what JSON cannot hold cannot come from a file
            return
        (out / "structure.json").write_text(text)
        manifest["files"]["structure.json"] = identity_of(out / "structure.json")
        (out / "manifest.json").write_text(json.dumps(manifest))
        load(out)

    return EDITS, read


def fuzz(kind: str, count: int, start: int) -> Counter[str]:
    """Try so many bad inputs of a kind; how often each answer came.

    Raises:
        Exception: whatever was no clean error.
    """
    answers: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        inputs, read = globals()[f"fuzz_{kind}"](Path(name))

        @seed(start)
        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def attempt(given_input: Any) -> None:
            try:
                read(given_input)
                answers["accepted"] += 1
            except AutopruneError as error:
                answers["refused"] += 1
                if not str(error).strip():
                    raise RuntimeError("an error without a message") from error

        attempt()
    return answers


def main() -> int:
    """Try them all, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SHARES))
    options = parser.parse_args()
    for kind in options.only.split(","):
        begun = time.perf_counter()
        answers = fuzz(kind, max(1, round(options.inputs * SHARES[kind])), options.seed)
        listed = ", ".join(f"{count} {answer}" for answer, count in answers.most_common())
        print(f"{kind:9} {listed} in {time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
