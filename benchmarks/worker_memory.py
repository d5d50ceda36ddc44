"""What a worker holds in memory beyond torch and its model, with CIFAR-10 loaded.

    AUTOPRUNE_DATA=FOLDER .venv/bin/python benchmarks/worker_memory.py [--evaluate]

Prints the private memory (USS, from /proc: what would be free again if the process ended) of a worker after data and
reference were attached, beside a worker that has only made the model. The data lie once on the node, in Ray's object
store, and count for neither. It is the worker that loaded the data and gave it away. Linux only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

MOST_MEGABYTES = 200


def private_megabytes() -> float:
    """Memory of this process that no other process shares."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


class Bare:
    """A worker that holds torch and the model, and nothing else."""

    def __init__(self) -> None:
        import torch

        from autoprune.task import load_task

        self.model = load_task("cifar10").model()
        self.model(torch.zeros(1, 3, 32, 32))

    def memory(self) -> float:
        """Private memory in megabytes."""
        return private_megabytes()


class Loaded:
    """A worker of a search that can say how much it holds."""

    def __init__(self, spec: object) -> None:
        from autoprune.evaluate import Evaluator

        self.inner = Evaluator(spec)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def memory(self) -> float:
        """Private memory in megabytes."""
        return private_megabytes()


def main() -> None:
    """Print the figures."""
    from autoprune.cluster import Pool
    from autoprune.record import Request
    from autoprune.space import Space
    from autoprune.spec import load_spec

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluate", action="store_true", help="also after one evaluation")
    here = str(Path(__file__).resolve())
    options = parser.parse_args()
    spec = load_spec("cifar10_resnet20", task="cifar10")
    with Pool(f"{here}:Bare", {}, workers=1) as pool:
        bare = pool.call("memory")
    with Pool(f"{here}:Loaded", {"spec": spec}, workers=1) as pool:
        pool.share("shareable_data", "attach_data")
        pool.broadcast("attach_reference", pool.call("train_reference"))
        beyond = pool.call("memory") - bare
        print(f"torch, Ray and the model: {bare:.0f} MB")
        print(f"a worker with the data attached: {beyond:.0f} MB beyond that (at most {MOST_MEGABYTES})")
        if options.evaluate:
            point = Space.from_json(pool.call("describe")["choices"]).neutral()
            result = pool.call("evaluate", Request(0, 0, point))
            print(f"after an evaluation ({result.state}): {pool.call('memory') - bare:.0f} MB beyond")


if __name__ == "__main__":
    main()
