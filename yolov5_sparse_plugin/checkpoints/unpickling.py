"""Read a checkpoint without running code of whoever wrote it.

A pickle names the functions it wants called. Of these, only what the checkpoints of YOLOv5 and of its sparse fork are
made of is looked up: tensors, layers of torch and of YOLOv5 (without running their constructors), numpy's scalars,
plain collections. Everything else is refused by name, unless the user trusts the file.
"""

from __future__ import annotations

import io
import types
import warnings
from pathlib import Path
from typing import Any

import torch

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.checkpoints import inert, trusted
from yolov5_sparse_plugin.checkpoints.archive import (
    check_kind,
    check_sums,
    check_whole,
    is_path,
    is_zip,
    reading,
    stored,
)
from yolov5_sparse_plugin.checkpoints.assembly import Assembly
from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.hosts.class_tree import library_class, own_class

# what SparseML hung into models while it trained them: masks' hooks, teachers, losses; and the fork's quantizable `+`
LEFTOVERS = ("sparseml.", "functools partial", "torch.utils.hooks RemovableHandle")
LEFTOVER_CLASSES = ("_Add", "FloatFunctional")
WAY_OUT = (
    f"If you made this file, or know who did, use --sparse-trust-pickle (or {options.ENV_PREFIX}TRUST_PICKLE=1); else "
    "delete it."
)


def load(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, whoever wrote it.

    Args:
        file: path of a file of `torch.save`, today's format or the one before torch 1.6.

    Returns:
        The checkpoint's dict. Modules are of this host's own classes, whichever class tree they were pickled from.

    Raises:
        CheckpointError: the file is damaged, is not a checkpoint, or names something that is not allowed.
    """
    trust = trusts()
    check_whole(file)
    check_sums(file)
    archive = is_path(file) and is_zip(file)
    if archive and not trust:
        check_kind(file)
    shim = trusted.machine(own_class, is_leftover) if trust else inert_machine(file)
    with reading(file):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of classes whose source has changed since
                # torch tries a tar archive first where it is given a file, and unpacks it
                source = io.BytesIO(Path(file).read_bytes()) if is_path(file) and not archive else file
                ckpt = torch.load(source, map_location=map_location, pickle_module=shim, weights_only=False)
            ckpt = ckpt if trust else Assembly().checkpoint(ckpt)
        except inert.Refusal as error:
            raise CheckpointError(
                f"{file}: the checkpoint {error}. It was not done, and nothing was loaded. {WAY_OUT}"
            ) from error
    if not isinstance(ckpt, dict):
        raise CheckpointError(f"{file}: not a YOLOv5 checkpoint: it holds a {type(ckpt).__name__}, not a dict.")
    return trusted.without_absent(ckpt) if trust else dict(ckpt)


def inert_machine(file: Any) -> types.ModuleType:
    """Return the interpreter for `file`; see `inert.machine`."""
    return inert.machine(lambda *name: look_up(file, *name), stored(file) if is_path(file) else None)


def trusts() -> bool:
    """Return whether the user trusts pickles, by environment or config file; a run's own option is put there."""
    return options.resolve({}, command="val").trust_pickle


def look_up(file: Any, module: str, name: str) -> Any:
    """Return what stands for `module.name` of the checkpoint `file` while it is read.

    Raises:
        CheckpointError: it may not be there.
    """
    found = allowed(module, name)
    if found is None:
        raise refused(file, module, name)
    return found


def allowed(module: str, name: str) -> Any:
    """Return what stands for `module.name` in a checkpoint, None where it may not be there."""
    if f"{module} {name}" in inert.FUNCTIONS:
        return inert.Name(module, name)
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if is_leftover(module, name):
        return inert.Leftover()
    cls = own_class(module, name) or library_class(module, name)
    return None if cls is None else inert.Name(module, name, cls)


def is_leftover(module: str, name: str) -> bool:
    return f"{module} {name}".startswith(LEFTOVERS) or name in LEFTOVER_CLASSES


def refused(file: Any, module: str, name: str) -> CheckpointError:
    module = {"posix": "os", "nt": "os", "__builtin__": "builtins"}.get(module, module)
    return CheckpointError(
        f"{file}: the checkpoint wants to call {module}.{name}, which YOLOv5's checkpoints do not need, and "
        f"which may run anything on this machine. It was not called, and nothing was loaded. {WAY_OUT}"
    )
