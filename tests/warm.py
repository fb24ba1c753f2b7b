"""`yolov5 …` from a process that has imported other people's packages already: seven of the eight seconds of a start.

YOLOv5 and this plugin are imported by each command itself, in its own folder and environment; what it shares with the
ones before is torch, torchvision, pandas and the like. Without --warm every command is started as users start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PRELOADED = (
    *("torch", "torchvision", "torch.utils.tensorboard", "torch.onnx", "numpy", "pandas", "scipy.stats", "cv2"),
    *("matplotlib.pyplot", "seaborn", "PIL.ImageFont", "requests", "yaml", "tqdm", "huggingface_hub", "wandb", "fire"),
)
# what Python, or a library when it is imported, reads of the environment
AT_START = ("PYTHON", "LD_PRELOAD", "OMP_", "YOLOV5_SPARSE_AUTOLOAD")


class Warm:
    """Forks commands, one after the other."""

    def __init__(self, env: dict[str, str]):
        self.started_with = at_start(env)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, __file__], env=env, start_new_session=True, **pipes)

    def serves(self, env: dict[str, str]) -> bool:
        """Return whether a command in this environment would start as this process did; no more after an interrupt."""
        return at_start(env) == self.started_with and self.process.poll() is None

    def run(self, words: list[str], cwd: Path, env: dict[str, str], output: Path, timeout: float) -> int:
        """Run a console script with its output in a file; return its exit status, negative for a signal."""
        request = {"words": words, "cwd": str(cwd), "env": env, "output": str(output)}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(words, timeout)
            return int(self.process.stdout.readline())
        except BaseException:  # an answer that comes later would be taken for that of the next command
            self.close()
            raise

    def close(self) -> None:
        """End the process, and the command that it may be running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def at_start(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def serve() -> dict[str, Any]:
    """Fork for every request; return it in the child, which goes on and ends as any Python does."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    import gc
    import importlib
    import runpy

    for name in os.environ.get("WARM_PRELOADED", "").split() or PRELOADED:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    asked = serve()
    for number, file, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(file, how)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = asked["words"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    gc.unfreeze()
    runpy.run_path(sys.argv[0], run_name="__main__")
