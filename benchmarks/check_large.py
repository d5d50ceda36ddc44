"""How long `autoprune check` takes on a large encoder, and how much memory: BERT-base, 110 million parameters.

    .venv/bin/python benchmarks/check_large.py [--length 16]

One thread, random weights from the default configuration (nothing is downloaded). Prints seconds, and the memory of the
model and of the check together as a multiple of the model's. Exit code 1 beyond 20 seconds or 2.5 times.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch
from transformers import BertConfig, BertForSequenceClassification

from autoprune.inspect import inspect

MOST_SECONDS, MOST_MEMORY = 20.0, 2.5


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Check the model and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=16, help="tokens of the example")
    length = parser.parse_args().length
    torch.set_num_threads(1)
    model = BertForSequenceClassification(BertConfig()).eval()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    ids = torch.randint(0, 30000, (1, length))
    before, start = peak_bytes(), time.perf_counter()
    found = inspect(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    seconds = time.perf_counter() - start
    memory = 1.0 + (peak_bytes() - before) / size
    proven = sum(group["proven"] for group in found["groups"])
    print(
        f"{found['params'] / 1e6:.0f}M parameters, {proven} groups proven, {len(found['frozen'])} layers stay whole"
    )
    print(f"check: {seconds:.1f} s, {memory:.2f} times the model's memory")
    sys.exit(seconds > MOST_SECONDS or memory > MOST_MEMORY)


if __name__ == "__main__":
    main()
