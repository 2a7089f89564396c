"""Runs on_hpu.py in a process of its own: a device, once made, can't be taken back."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_all_that_holds_on_the_device():
    paths = [str(HERE), str(HERE / "fake"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(HERE / "on_hpu.py")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in", done.stdout.splitlines()[-1]), done.stdout  # and none was skipped
