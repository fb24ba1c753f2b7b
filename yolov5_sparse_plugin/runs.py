"""A training run and an export, as hooks see them, and as everything does that serves one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

    from yolov5_sparse_plugin.engine.contract import Optimizer, Schedule
    from yolov5_sparse_plugin.options import SparseOptions


Entered = TypeVar("Entered")


class Twin(Protocol):
    """The model as an unmodified YOLOv5 would have it, whatever the live one has become.

    Attributes:
        module: it, with the weights that it was built with.
    """

    module: nn.Module

    def copy_of(self, model: nn.Module) -> nn.Module:
        """Return a new plain module, on the CPU, with the values and the attributes of `model`."""


class Averages(Protocol):
    """The host's ModelEMA, extended for the run: float32 averages of the weights in `ema`."""

    ema: nn.Module
    updates: int

    def mask(self) -> None:
        """Zero, in place, the averaged weights that are masked in the live model."""

    def follow(self, model: nn.Module) -> None:
        """Let `ema` be the live model from now on."""


class Run(Protocol):
    """A training run.

    What the host builds, `model`, `twin`, `optimizer` and `loader`, is there once it has built it: to ask earlier is a
    PluginError.

    Attributes:
        options, schedule: what the user asked for and what the recipe makes of it.
        opt: upstream's, as `train()` got them. host: the globals of the host's `train()`.
        save_dir: the run's folder.
        resumed: the sparse part of the checkpoint that is being resumed, None for a new run.
        model: the live model, of the host's classes, quantized once the recipe has done so. twin: its float twin.
        ema: the averaged weights, None on ranks other than 0.
        optimizer: the engine's, around upstream's. loader: the training set's.
        teacher: what the model learns from beside the labels, None where nothing is distilled.
        quantized: whether `model` has quantizers.
        phase: see `checkpoints.phases`.
        settled: whether the model is wholly in its phase: false for a dense model that is being pruned.
        epochs: length of the run. completed: epochs that are over. saved: those in last.pt.
        begun: whether a batch has started.
        metrics: of the latest validation: precision, recall, mAP50, mAP50-95; None before the first.
    """

    options: SparseOptions
    schedule: Schedule
    opt: Any
    save_dir: Path
    resumed: dict[str, Any] | None
    ema: Averages | None
    teacher: nn.Module | None
    quantized: bool
    phase: str
    epochs: int
    completed: int
    saved: int
    begun: bool
    metrics: list[float] | None

    @property
    def host(self) -> dict[str, Any]: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def twin(self) -> Twin: ...

    @property
    def optimizer(self) -> Optimizer: ...

    @property
    def loader(self) -> Any: ...

    @property
    def settled(self) -> bool: ...

    def say(self, message: str, warn: bool = False) -> None:
        """Print a line among the host's own."""

    def learn_from(self, teacher: nn.Module) -> None:
        """Tell the run of its teacher, before the model is built: called with images it returns raw outputs."""

    def average_in(self, ema: Averages) -> None:
        """Tell the run where its averaged weights are."""

    def validated(self, metrics: list[float]) -> None:
        """Tell the run its latest precision, recall, mAP50 and mAP50-95, 0..1."""

    def written(self) -> None:
        """Tell the run that a checkpoint of the completed epochs is on disk."""

    def masks(self) -> dict[str, torch.Tensor]:
        """Return the masks in force by the parameters' float names."""

    def layers(self) -> dict[str, float]:
        """Return the sparsity of every prunable weight, by float name, 0..1."""

    def sparsity(self) -> float:
        """Return zeros among all prunable weights of the live model, 0..1."""


class Export(Protocol):
    """An export.

    `model` is there once the host has loaded it, `graph` and `findings` once it is exported: to ask earlier is a
    PluginError.

    Attributes:
        options: the plugin's. arguments: upstream's, by name. typed: names of those that the user gave.
        hooks: the pluggy manager of this export.
        weights: path of the checkpoint.
        target: the engine that the graph is shaped for.
        quantized: whether the model has quantizers.
        host: the globals of the host's export module.
        size: height and width of the model's input, in pixels.
        model: the torch model.
        graph: as it is in the file, with everything that hooks have done to it.
        findings: its comparison with the model, an `export.verify.Findings`.
    """

    options: SparseOptions
    arguments: dict[str, Any]
    typed: set[str]
    hooks: Any
    weights: Path
    target: str
    quantized: bool

    @property
    def host(self) -> dict[str, Any]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def graph(self) -> onnx.ModelProto: ...

    @property
    def findings(self) -> Any: ...

    def say(self, message: str, warn: bool = False) -> None:
        """Print a line among the host's own."""

    def input_size(self, model: nn.Module | None) -> tuple[int, int]:
        """Return height and width as upstream rounds them up for a model: to multiples of its stride, usually 32."""

    def calibration_files(self, count: int) -> list[Path]:
        """Return images of the data set that the user named; of the training split, spread over it."""

    def verification_images(self, count: int) -> tuple[list[Any], str]:
        """Return up to `count` images of --data's validation split, and where they are from."""

    def export_as_upstream(self, model: nn.Module, weights: Path) -> Path:
        """Let the host export another model as float32 ONNX beside `weights`, in the shape of this one; return it."""

    def lasting(self, context: AbstractContextManager[Entered]) -> Entered:
        """Enter a context that ends with the export, however that ends."""
