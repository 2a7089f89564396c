"""How long the command takes before its work starts, as whole processes.

    python benchmarks/cli.py [--rounds 15]

Python alone (`python -c pass`) and `python -c "import torch"` are timed in the same rounds, in turns, so that a busy
machine slows all alike; the ratios matter. Exit code 1 if a median is over its budget.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAVCAP = str(Path(sys.executable).with_name("lavcap"))
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "lavcap --help": ([LAVCAP, "--help"], 0.25),
    "lavcap plugins list": ([LAVCAP, "plugins", "list"], 0.25),
    "lavcap check lavcap": ([LAVCAP, "check", "lavcap"], 0.7),
    "python -c 'import torch'": ([sys.executable, "-c", "import torch"], None),
}
"""Command to its words and its budget in seconds."""


def measure(words: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time, of one process and its children."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, used


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    for words, _ in COMMANDS.values():  # compiled files and the disk's cache are warm from here on
        measure(words)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (words, _) in COMMANDS.items():
            times[name].append(measure(words))
    medians = {name: statistics.median(wall for wall, _ in found) for name, found in times.items()}
    bare, torch = medians["python -c pass"], medians["python -c 'import torch'"]
    print(f"{'':26}{'median':>8}{'fastest':>9}{'cpu':>8}{'/ python':>10}{'/ torch':>9}{'budget':>8}")
    over = False
    for name, (_, budget) in COMMANDS.items():
        fastest, used = min(wall for wall, _ in times[name]), statistics.median(cpu for _, cpu in times[name])
        row = f"{name:26}{medians[name]:7.3f}s{fastest:8.3f}s{used:7.3f}s"
        row += f"{medians[name] / bare:10.1f}{medians[name] / torch:9.2f}"
        late = budget is not None and medians[name] > budget
        over = over or late
        print(row + ("" if budget is None else f"{budget:7.2f}s{' over' if late else ''}"))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Python {sys.version.split()[0]}, {rounds} rounds")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
