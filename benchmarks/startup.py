"""How long the command line takes to answer: `import autoprune` and `autoprune --help`, in fresh processes.

    .venv/bin/python benchmarks/startup.py

Prints the best of five of each beside what is promised, and which of torch, ray and optuna got loaded (none
may). Exits with 1 when a promise is missed.
"""

from __future__ import annotations

import subprocess
import sys
import time

RUNS = 5
HEAVY = ("torch", "ray", "optuna")
PROMISED = {"import autoprune": 0.3, "autoprune --help": 0.5}
COMMANDS = {
    "import autoprune": [sys.executable, "-c", "import autoprune"],
    "autoprune --help": [sys.executable, "-m", "autoprune.cli", "--help"],
}
LISTING = "import sys; sys.argv = ['autoprune', '--help']\ntry:\n    from autoprune.cli import main; main()\n"
LISTING += f"except SystemExit:\n    print(*[n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"


def seconds(command: list[str]) -> float:
    """The least time of a few runs."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Measure, print, and say whether every promise is kept."""
    kept = True
    for name, command in COMMANDS.items():
        took = seconds(command)
        kept &= took <= PROMISED[name]
        print(f"{name:18}{took:6.2f} s   promised ≤ {PROMISED[name]} s")
    done = subprocess.run([sys.executable, "-c", LISTING], check=True, capture_output=True, text=True)
    loaded = done.stderr.split()
    print(f"{'heavy packages':18}{', '.join(loaded) or 'none':>6}")
    return 0 if kept and not loaded else 1


if __name__ == "__main__":
    sys.exit(main())
