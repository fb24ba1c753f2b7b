"""What ends a run early, in plain words: it cannot begin, or its weights are no longer numbers."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from yolov5_sparse_plugin.errors import SparsePluginError, TrainingError
from yolov5_sparse_plugin.training import interrupts

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Run

# how upstream refuses data and options: an assertion, or an exception of no particular class
REFUSALS = (AssertionError, Exception, FileNotFoundError)


def told(run: Run, error: BaseException) -> BaseException:
    """Return the error of the plugin's that says why `run` ended, or `error` itself where there is nothing to add."""
    if isinstance(error, KeyboardInterrupt):
        interrupts.tell(run, error)
    if isinstance(error, SparsePluginError) or not isinstance(error, Exception):
        return error
    if not run.begun:
        if isinstance(error, PermissionError):
            return TrainingError(f"{error.filename}: {error.strerror}. Choose another --project. Nothing was trained.")
        if type(error) not in REFUSALS or not str(error):
            return error
        words = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()[0].strip().rstrip(".")
        if run.resumed:
            return TrainingError(f"--resume {run.opt.weights}: YOLOv5 cannot go on with this run: {words}.")
        return TrainingError(
            f"--data {run.opt.data}: YOLOv5 cannot begin this run: {words}. Mend the data set, or the option that it "
            "speaks of. Nothing was trained."
        )
    try:
        check_finite(run, run.completed + 1)  # NaN makes quantizers and masks fail before the epoch is over
    except TrainingError as cause:
        return cause
    return error


def first_missing(folder: Path) -> Path | None:
    """Return the outermost folder that has to be made for `folder` to be there, None where it is."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    return missing[-1] if missing else None


def remove(folder: Path, made: Path) -> None:
    """Remove the folder of a run that did not begin: options, and nothing that was trained.

    Args:
        made: the outermost folder that the run has made; those on the way there go, too, where nothing else is in them.
    """
    if any(folder.glob("weights/*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (parent for parent in folder.parents if made in (parent, *parent.parents)):
        with contextlib.suppress(OSError):  # something else is in it, or it was never made
            parent.rmdir()


def check_finite(run: Run, epoch: int) -> None:
    """Refuse to validate and to save a model with NaN in it, which no further epoch mends.

    Upstream goes on, and writes it over the last good checkpoint.

    Args:
        epoch: the one that it happened in, from 1 on.

    Raises:
        TrainingError: naming the epoch and the first weight.
    """
    buffers = [(name, value) for name, value in run.model.named_buffers() if "running_" in name]  # not observers' ±inf
    state = [*run.model.named_parameters(), *buffers]
    name = next((name for name, value in state if not torch.isfinite(value).all()), None)
    if name is None:
        return
    last = run.save_dir / "weights" / "last.pt"
    kept = f"Nothing was written over {last}" if last.is_file() else "There is no checkpoint yet"
    raise TrainingError(
        f"{run.schedule.source}: the loss has diverged: {name} is not finite any more in epoch "
        f"{epoch} of {run.epochs} ({run.phase}). {kept}. Lower the learning rate (lr0 in --hyp, "
        "or the recipe's), and look for broken labels."
    )
