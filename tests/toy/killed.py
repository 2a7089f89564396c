"""Trains in a forked process that is killed again and again; prints what came of it as JSON.

    python killed.py SPEC FOLDER KILLS [SEED]

Forks, since importing torch for each of many processes would take most of the time. Every other kill waits until a
checkpoint is being written.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from lavcap_core.run.train import train
from lavcap_core.spec import read


def start(spec, folder):
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)  # threads of the parent are not there after a fork
    train(read(spec), folder, resume=True, quiet=True)
    os._exit(0)


def saving(folder, since):
    """Whether a checkpoint is being written by the process that was started then."""
    try:
        return any(path.stat().st_mtime > since for path in (folder / "checkpoints").glob(".step-*"))
    except FileNotFoundError:  # just renamed
        return False


def wait_for_save(folder, since, child):
    while not saving(folder, since):
        if os.waitpid(child, os.WNOHANG)[0]:
            return


def main():
    spec, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    random.seed(int(sys.argv[4]) if len(sys.argv) > 4 else None)
    began = time.monotonic()
    os.waitpid(start(spec, folder / "whole"), 0)
    whole = time.monotonic() - began
    done, inside, steps = 0, 0, []
    while done < kills:
        since = time.time()
        child = start(spec, folder / "killed")
        time.sleep(random.uniform(0.02, 0.5 * whole))
        if done % 2:
            wait_for_save(folder / "killed", since, child)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):  # it was done before the shot
            break
        done += 1
        inside += saving(folder / "killed", since)
        log = folder / "killed" / "log.jsonl"
        steps.append(len(log.read_text().splitlines()) if log.exists() else 0)
    _, status = os.waitpid(start(spec, folder / "killed"), 0)
    print(json.dumps({"kills": done, "inside": inside, "steps": steps, "status": status, "seconds": whole}))


if __name__ == "__main__":
    main()
