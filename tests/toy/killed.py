"""Trains in a forked process that is killed again and again; prints what came of it as JSON.

    python killed.py SPEC FOLDER KILLS [SEED]

Forks, since importing torch for each of many processes would take most of the time. Kills come after steps drawn from
the whole training, or at the start where the last kill came later; every other one waits until a checkpoint is being
written.
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


def logged(folder):
    log = folder / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def reached(folder, step):
    return logged(folder) >= step


def wait_for(child, condition, *arguments):
    while not condition(*arguments):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.0002)


def main():
    spec, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    random.seed(int(sys.argv[4]) if len(sys.argv) > 4 else None)
    whole, killed = folder / "whole", folder / "killed"
    os.waitpid(start(spec, whole), 0)
    done, inside, steps = 0, 0, []
    for step in sorted(random.sample(range(logged(whole) - 10), kills)):
        since = time.time()
        child = start(spec, killed)
        wait_for(child, reached, killed, step)
        time.sleep(random.uniform(0, 0.05))
        if done % 2:
            wait_for(child, saving, killed, since)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):  # it was done before the shot
            break
        done += 1
        inside += saving(killed, since)
        steps.append(logged(killed))
    _, status = os.waitpid(start(spec, killed), 0)
    print(json.dumps({"kills": done, "inside": inside, "steps": steps, "status": status}))


if __name__ == "__main__":
    main()
