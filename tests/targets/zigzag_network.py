"""A whole ONNX file by ZigZag, for a test: its path on standard input, [cycles, energy in picojoules] on output."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    import zigzag
    from zigzag.api import get_hardware_performance_zigzag

    request = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    inputs = Path(zigzag.__file__).parent / "inputs"
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        tempfile.TemporaryDirectory() as folder,
    ):
        energy, cycles, _ = get_hardware_performance_zigzag(
            request["file"],
            str(inputs / "hardware" / f"{request['accelerator']}.yaml"),
            str(inputs / "mapping" / f"{request['mapping']}.yaml"),
            dump_folder=folder,
            loma_show_progress_bar=False,
        )
    print(json.dumps([float(cycles), float(energy)]))
