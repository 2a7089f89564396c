"""Runs commands of lavcap one after another in this process, and notes what it read and wrote.

    torchrun --nproc-per-node 2 watched.py FOLDER COMMANDS

COMMANDS is a file of JSON: a list of lists of words. Process i writes FOLDER/watched-i.json: for each command the clips
that were read for training, as (epoch, name), and the paths that were made, opened for writing, renamed or removed.
"""

import json
import os
import sys
from pathlib import Path

from lavcap_core.cli import main
from lavcap_core.run import train

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


def watch(root, written):
    def note(event, arguments):
        opened = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opened or event in CHANGES) and str(arguments[0]).startswith(root):
            written.append(str(arguments[0]))

    sys.addaudithook(note)


def run(folder, commands):
    seen, written, found = [], [], []
    watch(str(folder), written)
    read = train._Run._read
    train._Run._read = lambda self, i, epoch: seen.append((epoch, self.data.names[i])) or read(self, i, epoch)
    for words in commands:
        code = main(words)
        found.append({"code": code, "seen": seen.copy(), "written": written.copy()})
        seen.clear(), written.clear()
    return found


if __name__ == "__main__":
    folder, commands = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    found = run(folder, commands)
    (folder / f"watched-{os.environ['RANK']}.json").write_text(json.dumps(found))
