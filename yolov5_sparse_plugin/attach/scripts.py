"""Attach to a git checkout: its scripts run as `__main__`, and a sparse one without the runner is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

from yolov5_sparse_plugin import options, startup
from yolov5_sparse_plugin.attach import doorways
from yolov5_sparse_plugin.attach.command_line import exit_plainly
from yolov5_sparse_plugin.errors import OptionError, end
from yolov5_sparse_plugin.hosts import checkout
from yolov5_sparse_plugin.hosts.host import Host
from yolov5_sparse_plugin.stubs import is_stub


def attach_module(module: ModuleType) -> None:
    """Wrap the doorways that `module` holds if it is a checkout's. Twice is a no-op."""
    file = getattr(module, "__file__", None)
    root = file and startup.checkout_of(module.__name__, os.path.abspath(file))
    if root:
        refuse_script_by_itself()
        doorways.attach(checkout.at(root), module, module.__name__)


def refuse_script_by_itself() -> None:
    """End a sparse command of a checkout that was started without the runner: it would be dense, without a word.

    No import tells us of a script, but the modules that it imports do.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None) if main.__name__ == "__main__" else None  # not of a spawned worker
    found = checkout.script_name(os.path.realpath(file)) if file and not checkout.running() else None
    why = found and exit_plainly(lambda: asked_for(found[1]))
    if why:
        line = f"python -m yolov5_sparse_plugin {' '.join(sys.argv)}"
        end(OptionError(f"{why}: python alone runs {sys.argv[0]} without the plugin. Type: {line}"))


def asked_for(name: str) -> str | None:
    """Return what the script `name` was asked for that only the plugin can do, as the user wrote it."""
    typed, weights = options.flag_typed(), value_of("--weights")
    if typed:
        return typed
    if name in ("train", "export") and weights and (is_stub(weights) or is_sparse(weights)):
        return f"--weights {weights}"
    if name != "train":
        return None
    return options.resolve({}).sparse or resumed()


def resumed() -> str | None:
    """Return what is to be said of `--resume`, if it is that of a sparse run."""
    given = value_of("--resume")
    if given is None:
        return None
    last = [given] if given else sorted(map(str, Path().glob("**/last*.pt")), key=os.path.getctime)[-1:]  # as upstream
    return f"--resume: {last[0]} is of a sparse run" if last and is_sparse(last[0]) else None


def value_of(flag: str) -> str | None:
    """Return the word behind `flag` on this process's command line, "" if there is none; None without the flag."""
    words = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith(flag + "=") else [word])]
    if flag not in words:
        return None
    after = [word for word in words[words.index(flag) + 1 :][:1] if not word.startswith("-")]
    return after[0] if after else ""


def is_sparse(file: str) -> bool:
    from yolov5_sparse_plugin.checkpoints import reading

    return reading.is_sparse(file)


def attach_script(host: Host, module: ModuleType, name: str) -> None:
    """Wrap the doorways of a script that is about to call its own `main()`."""
    doorways.attach(host, module, name)
    general = sys.modules.get("utils.general")
    if general is not None and hasattr(general, "imread"):
        # upstream replaces these only where the outermost frame is a script of its own; here that is the runner
        cv2 = general.cv2
        cv2.imread, cv2.imwrite, cv2.imshow = general.imread, general.imwrite, general.imshow
