"""Run several of the real `yolov5` commands in one process: each import of YOLOv5 costs seconds."""

from __future__ import annotations

import sys

from conftest import call

COMMANDS = """
import sys
import yolov5.cli
for words in {words}:
    print("COMMAND", flush=True)
    sys.argv, status = ["yolov5", *words], 0
    try:
        yolov5.cli.app()
    except SystemExit as end:
        status = end.code or 0
    print("STATUS", status, flush=True)
"""


def run_commands(cwd, *commands, **env):
    """Return status and output of each."""
    words = [[str(word) for word in each] for each in commands]
    done = call([sys.executable, "-c", COMMANDS.format(words=words)], cwd, **env)
    parts = [part.rpartition("STATUS ") for part in done.output.split("COMMAND\n")[1:]]
    assert len(parts) == len(commands), done.output[-4000:]
    return [(int(status.split()[0]), text) for text, _, status in parts]
