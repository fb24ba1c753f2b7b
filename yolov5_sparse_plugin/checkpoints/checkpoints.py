"""Checkpoints that every YOLOv5 can read, with what only this plugin understands beside it under `sparse`.

`model` and `ema` are plain float modules of the host's classes. `ckpt["sparse"]` holds, as plain values and tensors:

    format    this layout's name and version
    recipe    YAML with all variables resolved
    phase     dense, pruned, quantized or pruned_quantized
    epoch     the recipe's clock: epochs completed, fractional
    sparsity  zeros among the prunable weights, 0..1
    layers    the same by layer: parameter name -> sparsity
    metrics   precision, recall, mAP50 and mAP50-95 of its validation while it was trained, or None
    rank      rank of the phase that `best_fitness` belongs to
    state     full-precision state dict of the live model: quantizers' scales and zero points included.
              Always there for a quantized model; in an unfinished run for every model
    ema       full-precision state dict of the averaged weights, in an unfinished run that is not quantized yet
    pruned_at the recipe's clock when each pruning modifier last computed its masks, in an unfinished run
    random    state of the random numbers, in an unfinished run of one process; see `randomness`
"""

from __future__ import annotations

import contextlib
import os
import re
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch

from yolov5_sparse_plugin import atomic, options
from yolov5_sparse_plugin.checkpoints import archive, legacy, phases, unpickling
from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.training import randomness, ranks

if TYPE_CHECKING:
    from yolov5_sparse_plugin.training.run import TrainingRun

FORMAT = "yolov5-sparse-plugin/1"
# the format as a pickle has it: a whole string (opcode, length, text, then it is remembered), not a part of some path
OWN = re.compile(rb"X.\0\0\0yolov5-sparse-plugin/\d+[qr]", re.DOTALL)
TRUST = options.ENV_PREFIX + "TRUST_PICKLE"
_guarding: list[bool] = []


def is_sparse(file: Any) -> bool:
    """Return whether this plugin reads `file`: its own format, or the fork's. Nothing is unpickled to find out."""
    return is_own(file) or legacy.is_legacy(file)


def is_own(file: Any) -> bool:
    """Return whether `file` is a checkpoint with a sparse part."""
    pickled = archive.pickle_of(file)
    return pickled is not None and OWN.search(pickled) is not None


def read(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a sparse checkpoint as it was written; one of the fork's comes out in this format.

    Raises:
        CheckpointError: the file is damaged, wants to run code, or is of a newer format than this plugin knows.
    """
    if not is_own(file):
        return legacy.read(file, map_location)
    ckpt = unpickling.load(file, map_location)
    with archive.reading(file):
        return checked(ckpt, file)


def checked(ckpt: dict[str, Any], file: Any) -> dict[str, Any]:
    """Return a checkpoint of this plugin's own, brought up to date, if it is of today's format and whole."""
    part = ckpt.get("sparse")
    found = part.get("format") if isinstance(part, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{file}: written in format {found!r}, this plugin reads {FORMAT!r}. "
            "Install the version of yolov5-sparse-plugin that wrote it, or a newer one."
        )
    check_parts(legacy.of_today(ckpt, file), file)
    return ckpt


def check_parts(ckpt: dict[str, Any], file: Any) -> None:
    """Refuse a checkpoint of ours that lacks a part, or whose numbers are none.

    Raises:
        CheckpointError: naming the first.
    """
    part = ckpt["sparse"]
    kinds = {"recipe": str, "phase": str, "epoch": (int, float), "sparsity": (int, float), "layers": dict}
    if is_quantized({"phase": "", **part}):
        kinds["state"] = dict
    wrong = [name for name, kind in kinds.items() if not isinstance(part.get(name), kind)]
    if part.get("phase") not in phases.PHASES:
        wrong.append("phase")
    if not isinstance(ckpt.get("model"), torch.nn.Module):
        wrong.append("model")
    if wrong:
        raise archive.damaged(file, f"its {wrong[0]} is missing, or is something else")
    archive.check_numbers(part.get("state") or {}, file)
    archive.check_numbers(ckpt["model"].state_dict(), file)


def is_quantized(sparse: dict[str, Any]) -> bool:
    return "quantized" in sparse["phase"]


def loader(original: Callable[..., Any], quantized: bool = True) -> Callable[..., Any]:
    """Return a `torch.load` for a host's namespace that understands sparse checkpoints.

    Args:
        original: what reads every other file.
        quantized: hand back a quantized model with its quantizers, as upstream's `model`; False: its float twin,
            from which upstream builds a model of its own when it trains.
    """

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_sparse(file):
            return original(file, *args, **kwargs)
        ckpt = read(file, kwargs.get("map_location", args[0] if args else "cpu"))
        if quantized and is_quantized(ckpt["sparse"]):
            ckpt["model"], ckpt["ema"] = quantized_model(ckpt), None
        return ckpt

    return load


@contextlib.contextmanager
def whole_pickles(trust: bool = False) -> Iterator[None]:
    """Let torch >= 2.6 read whole pickled models, which it refuses unless asked.

    YOLOv5 7.0 pickles its models and does not ask, not even where it reads back what it has just written. In force
    while a sparse run or an export lasts. What torch would have refused, `unpickling.load` looks at instead: it is put
    before every `torch.load` of the host's that reads a file of the user's choice.

    Args:
        trust: the run's `--sparse-trust-pickle`, for whatever reads a checkpoint while it lasts.
    """
    wanted = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", **({TRUST: "1"} if trust else {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _guarding.append(True)
    try:
        yield
    finally:
        _guarding.pop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def guarding() -> bool:
    """Return whether `whole_pickles` is in force, so that a plain checkpoint, too, is ours to look at."""
    return bool(_guarding)


def sparse_part(run: TrainingRun, best_fitness: Any) -> dict[str, Any]:
    """Return what `ckpt["sparse"]` holds for the present moment of a run; see the top of this file."""
    part = {
        "format": FORMAT,
        "recipe": run.schedule.text,
        "phase": run.phase,
        "epoch": float(run.completed),
        "sparsity": run.sparsity(),
        "layers": run.layers(),
        "metrics": run.metrics,
        "rank": getattr(best_fitness, "rank", run.phase_rank),
        "state": full_precision(run.model),
        "pruned_at": run.optimizer.pruned_at(),
    }
    if not run.quantized and run.ema is not None:
        part["ema"] = full_precision(run.ema.ema)
    if not ranks.several(run.host):  # each process draws its own, and one of them writes
        part["random"] = randomness.state()
    return part


def restore(run: TrainingRun, ckpt: dict[str, Any], ema: Any) -> None:
    """Give a resumed run back the full precision that upstream's FP16 copies lost. The structure is there already."""
    part = ckpt["sparse"]
    load_state(run.model, part["state"])
    run.optimizer.recall(part.get("pruned_at", []))
    if ema is not None:
        ema.updates = ckpt["updates"]
        if not run.quantized and "ema" in part:
            ema.ema.load_state_dict(part["ema"])


def quantized_model(ckpt: dict[str, Any]) -> torch.nn.Module:
    """Rebuild a quantized model, bit by bit, from its float twin, its recipe and its full-precision state.

    Returns:
        A module of the host's class in `eval()`. `half()` leaves it alone and `fuse()` does nothing: FP16 would move
        its weights off their grid, and batch norm is folded at export.
    """
    from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
    from yolov5_sparse_plugin.engine.sparseml.schedule import Schedule

    model = (ckpt.get("ema") or ckpt["model"]).float()
    if any(".residual." in name for name in ckpt["sparse"]["state"]):
        make_adds_quantizable(model)
    Schedule.of_structure(ckpt["sparse"]["recipe"], "the checkpoint's recipe").apply_quantization(model)
    load_state(model, ckpt["sparse"]["state"])
    model.half = types.MethodType(lambda self: self, model)
    model.fuse = types.MethodType(lambda self: self, model)
    model.register_forward_pre_hook(cast_inputs)
    return model.eval()


def load_state(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a full-precision state into the structure it came from, quantized or not, strictly."""
    modules = dict(model.named_modules())
    for name, value in state.items():
        # per-channel scales and ranges have no size before the first observation; not every torch resizes them itself
        owner, _, leaf = name.rpartition(".")
        buffers = modules[owner]._buffers if owner in modules else {}
        if leaf in buffers and buffers[leaf].shape != value.shape:
            buffers[leaf] = torch.empty_like(value, device=buffers[leaf].device)
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # without it torch 2.1 looks for observers' names of torch 1.4
    missing, unexpected = model.load_state_dict(versioned, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"the checkpoint's weights do not fit its recipe: {len(missing)} missing (first: "
            f"{(missing or ['-'])[0]}), {len(unexpected)} unexpected (first: {(unexpected or ['-'])[0]}). "
            "Its float twin can still be used with YOLOV5_SPARSE_AUTOLOAD=0."
        )


def cast_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand FP16 images (`--half`) to a quantized model as float32."""
    return tuple(x.float() if torch.is_tensor(x) and x.dtype == torch.float16 else x for x in inputs)


def full_precision(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy, on the CPU, of a model's whole state dict."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def save_atomically(save: Callable[..., Any], ckpt: Any, file: Any) -> None:
    """Write a checkpoint so that `file` is at every moment either the old one or the new one, complete.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; `file` is what it was.
    """
    try:
        with atomic.replacing(Path(file)) as stream:
            save(ckpt, stream)
    except OSError as error:
        kept = "the previous one is still there" if Path(file).exists() else "there is no earlier one"
        raise CheckpointError(
            f"{file}: the checkpoint could not be written ({error.strerror}); {kept}. Free some space or choose "
            "another --project."
        ) from error


def copy_atomically(source: Any, target: Any) -> None:
    """Copy a checkpoint; `target` is never half a file."""
    data = Path(source).read_bytes()
    save_atomically(lambda _, stream: stream.write(data), None, target)


def strip(file: Any) -> float:
    """Finish a checkpoint as upstream's `strip_optimizer` does, its sparse part included; return its size in MB."""
    ckpt = read(file)
    if ckpt.get("ema"):
        ckpt["model"] = ckpt["ema"]
    for key in ("optimizer", "best_fitness", "ema", "updates"):
        ckpt[key] = None
    ckpt["epoch"] = -1
    ckpt["model"].half()
    for parameter in ckpt["model"].parameters():
        parameter.requires_grad = False
    ckpt["sparse"].pop("ema", None)
    for key in ("random", "pruned_at"):
        ckpt["sparse"].pop(key, None)
    if not is_quantized(ckpt["sparse"]):
        ckpt["sparse"].pop("state", None)
    save_atomically(torch.save, ckpt, file)
    return os.path.getsize(file) / 1e6
