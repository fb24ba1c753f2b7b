"""The process that runs one model in one engine for `bench`: loads it, then times an inference for each line it reads.

`main` runs in a process of its own, with the engine's name for an argument; the first line that it reads is the job, as
JSON. Each line is answered with one line of JSON. Engines abort the process on graphs that they do not like, and print
what they like: here neither reaches the user's command.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# what engines say before they come to the point
CHATTER = re.compile(
    r"Exception from |Check '.*' failed at |FrontEnd API failed|Model wasn't fully converted|.* with a message:$|"
    r"While validating |Summary:|WARNING"
)


def telling_line(text: str) -> str:
    """Return the first line of an engine's error text that says something."""
    lines = [line.strip(" -\t") for line in text.splitlines() if line.strip(" -\t")]
    return next((line for line in lines if not CHATTER.match(line)), lines[0] if lines else "")


def yield_to_others() -> None:
    """Let this thread run when nobody else wants to: while an engine is imported, the model is still being exported.

    On Linux each thread has a niceness of its own; the one that runs the model keeps the usual.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")

    try:
        from yolov5_sparse_plugin.bench.engines import ENGINES

        engine = ENGINES[sys.argv[1]]
        with ThreadPoolExecutor(1, initializer=yield_to_others) as aside:
            aside.submit(engine.prepare).result()
        line = sys.stdin.readline()
        if not line:  # the parent needs it no more
            return
        job = json.loads(line)
        inference = engine.load(Path(job["model"]), job["batch"], job["img"], job["threads"])
        answer(remark=inference.remark)
        gc.disable()
        for _ in sys.stdin:
            start = time.perf_counter()
            inference()
            answer(seconds=time.perf_counter() - start)
    except Exception as error:  # of an engine's own kind; it becomes a row of the table
        answer(error=telling_line(str(error)) or type(error).__name__)
