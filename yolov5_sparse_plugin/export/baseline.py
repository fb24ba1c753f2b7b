"""What an export is compared with: the dense model that the user had, as float32 ONNX."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from yolov5_sparse_plugin import manager
from yolov5_sparse_plugin.bench import onnx_input
from yolov5_sparse_plugin.checkpoints import formats, reading
from yolov5_sparse_plugin.errors import BenchError, CheckpointError, OptionError, SparsePluginError
from yolov5_sparse_plugin.export.layers import stored_weights
from yolov5_sparse_plugin.hosts.current import host
from yolov5_sparse_plugin.stubs import is_stub

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Export

DENSE = "best_dense.pt"
TWIN = "its float twin"
BEHIND = 0.05  # mAP50 that a dense model may lack of the one that came from it, in its run's own validation


class NoBaseline(SparsePluginError):
    """There is nothing to compare an export with; it goes on without."""


@dataclass
class Choice:
    """A baseline that was chosen before the export began.

    Attributes:
        name: what sentences call it.
        file: checkpoint or ONNX file.
        model: the checkpoint's float model, float32 in `eval()`; None for an ONNX file.
        remarks: what should be known to read the figures.
        refill: whether its zeros are not its own, but of the sparse model that it is the twin of.
        map50: what its run measured while it was trained, if that is known. epoch: that it is from.
    """

    name: str
    file: Path
    model: torch.nn.Module | None = None
    remarks: list[str] = field(default_factory=list)
    refill: bool = False
    map50: float | None = None
    epoch: float | None = None


@dataclass(frozen=True)
class Baseline:
    """A baseline that can be run.

    Attributes:
        name, remarks: see `Choice`.
        file: its ONNX file.
        timed: the one whose latency stands for it: of a twin, a dense copy.
    """

    name: str
    remarks: list[str]
    file: Path
    timed: Path


def choose(export: Export) -> Choice | None:
    """Return what `export` is to be compared with: what the user names, else the dense model that it came from.

    Returns:
        None for a float model, unless the user names a baseline.

    Raises:
        OptionError, CheckpointError: what the user names cannot be it.
    """
    named = export.options.baseline
    if not named and not export.quantized:
        return None
    own = opened(export.weights, str(export.weights), export, itself=True) if export.weights.is_file() else None
    if named:
        asked = export.options.asked("baseline")
        choice = fitting(Path(manager.resolve(export.hooks, "weights", named, export.options)), asked, export, own)
        choice.name = named if is_stub(named) else choice.name  # in a zoo, every model's file is called model.pt
        return choice
    beside = export.weights.with_name(DENSE)
    if beside.is_file() and own is not None and beside != export.weights:
        try:
            dense = fitting(beside, str(beside), export, own)
        except (OptionError, CheckpointError) as error:
            own.remarks.append(f"{error} It is not what this export is compared with.")
        else:
            if own.map50 is None or dense.map50 is None or dense.map50 > own.map50 - BEHIND:
                return dense
            own.remarks.append(
                f"{DENSE} is of epoch {dense.epoch:.0f}, too early to be compared with: its run measured an mAP50 of "
                f"{dense.map50:.3f} then, and {own.map50:.3f} for {export.weights.name}. --sparse-baseline takes it, "
                "or a dense model that was trained to its end."
            )
    return own or Choice(export.weights.name, export.weights)  # one that YOLOv5 will have downloaded by then


def fitting(file: Path, asked: str, export: Export, own: Choice | None) -> Choice:
    """Open a baseline and refuse one that has nothing to do with the model that is being exported.

    Args:
        asked: how the user named it, for messages.
        own: the model that is being exported, where it is there already.
    """
    if not file.is_file():
        found = "this is a folder" if file.is_dir() else "there is no such file"
        raise OptionError(f"{asked}: {found}. Name a checkpoint (.pt) or an exported model (.onnx).")
    graph = file.suffix.lower() == ".onnx"
    if graph and file.resolve() == export.weights.with_suffix(".onnx").resolve():
        raise OptionError(f"{asked}: this is the file that the export replaces. Copy it to another place first.")
    choice = opened_graph(file, asked, export, own) if graph else opened(file, asked, export)
    theirs = graph_classes(file) if graph else classes_of(choice.model)
    if own is not None and theirs is not None:
        check_classes(theirs, classes_of(own.model), asked, own.file.name)
    return choice


def opened(file: Path, asked: str, export: Export, itself: bool = False) -> Choice:
    """Read a checkpoint's float model.

    Args:
        itself: whether it is the one that is being exported.
    """
    choice = Choice(file.name, file)
    if reading.is_sparse(file):
        ckpt = reading.read(file)
        part, model = ckpt["sparse"], (ckpt.get("ema") or ckpt["model"]).float()
        choice.map50, choice.epoch = (part["metrics"] or [None] * 3)[2], part["epoch"]
        if formats.is_quantized(part):
            choice.name, choice.refill = TWIN if itself else f"the float twin of {file.name}", True
            choice.remarks.append(
                "The float twin is the same model without its 8 bits; for its latency, its zeros were filled in."
            )
    else:
        model = attempted(file, asked)
    if type(model) is not export.host["DetectionModel"]:  # segmentation models are a subclass
        raise CheckpointError(f"{asked} is a {type(model).__name__}; only detection models can be compared.")
    choice.model = model.eval()
    return choice


def attempted(file: Path, asked: str) -> torch.nn.Module:
    """Let the host load a checkpoint of its own kind, without code of whoever wrote it."""
    try:
        return host().module("models.experimental").attempt_load(str(file), device=torch.device("cpu"), fuse=False)
    except SparsePluginError:
        raise
    except Exception as error:
        raise CheckpointError(f"{asked}: not a YOLOv5 checkpoint ({error}).") from error


def opened_graph(file: Path, asked: str, export: Export, own: Choice | None) -> Choice:
    """Look at an ONNX file. YOLOv5 never does: it would `eval()` what stands in the file's metadata."""
    try:
        given = onnx_input.read(file)
    except BenchError as error:
        raise OptionError(f"{asked}: {str(error).removeprefix(f'bench {file}: ')}") from error
    wanted = (int(export.arguments["batch_size"]), 3, *export.input_size(own.model if own else None))
    if any(theirs not in (None, ours) for theirs, ours in zip(given.shape, wanted)):
        fixed = " x ".join("any" if side is None else str(side) for side in given.shape)
        raise OptionError(
            f"{asked}: it takes images of {fixed}, this export is for {' x '.join(map(str, wanted))} (batch, channels, "
            "height, width). Give the export the same --imgsz and --batch-size, or name a checkpoint."
        )
    same = file.name == f"{export.weights.stem}.onnx"
    return Choice(f"{file.resolve().parent.name}/{file.name}" if same else file.name, file)


def check_classes(theirs: list[str], ours: list[str], asked: str, own: str) -> None:
    """Refuse a model that was trained for something else.

    Args:
        theirs: names of the baseline's classes, empty where it names none. ours: of the model in the file `own`.
    """
    advice = "Name a model that was trained for the same ones."
    if len(theirs) != len(ours):
        raise OptionError(f"{asked}: it knows {len(theirs)} classes, {own} {len(ours)}. {advice}")
    for place, (their, our) in enumerate(zip(theirs, ours)):
        if their and their.strip().lower() != our.strip().lower():
            raise OptionError(f"{asked}: its class {place} is {their!r}, that of {own} {our!r}. {advice}")


def classes_of(model: Any) -> list[str]:
    """Return the names of a torch model's classes."""
    names = model.names
    return [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]


def graph_classes(file: Path) -> list[str] | None:
    """Return the names of an ONNX file's classes, empty where it does not name them, None where it tells no number."""
    model = onnx.load(str(file), load_external_data=False)
    for entry in model.metadata_props:
        if entry.key == "names":
            try:
                names = ast.literal_eval(entry.value)
                return [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                break
    dims = model.graph.output[0].type.tensor_type.shape.dim
    return [""] * (dims[-1].dim_value - 5) if dims and dims[-1].dim_value > 5 else None


def made(choice: Choice, export: Export, folder: Path) -> Baseline:
    """Bring a baseline into a form that runs, in `folder`; nothing of the user's is touched.

    Raises:
        NoBaseline: it cannot be exported.
    """
    if choice.file.suffix.lower() == ".onnx":
        return Baseline(choice.name, choice.remarks, choice.file, choice.file)
    try:
        if choice.model is None:
            choice = opened(choice.file, str(choice.file), export, itself=True)
        assert choice.model is not None, "`opened` gives it one"
        file = export.export_as_upstream(choice.model, folder / "baseline.pt")
        timed = refilled(file) if choice.refill else file
    except Exception as error:  # whatever torch and YOLOv5 raise; the export is in place already
        words = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
        raise NoBaseline(f"{choice.name} cannot be exported ({words[0] if words else type(error).__name__})") from error
    return Baseline(choice.name, choice.remarks, file, timed)


def refilled(file: Path) -> Path:
    """Write a copy of a float model beside it in which no weight is zero; for its speed, it computes nonsense."""
    model = onnx.load(str(file))
    random = np.random.default_rng(0)
    for _, tensor in stored_weights(model):
        weight = numpy_helper.to_array(tensor)
        spread = max(float(weight.std()), 1e-3)
        filled = np.where(weight == 0, random.normal(0, spread, weight.shape), weight).astype(weight.dtype)
        tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    copy = file.with_name(f"{file.stem}-dense.onnx")
    onnx.save(model, str(copy))
    return copy
