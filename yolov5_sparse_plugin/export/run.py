"""One export, from the checkpoint to the file beside it.

check                 options, weights and formats go together; nothing is written yet
sparse_export_start
seams replaced        `run()` of the host's export module begins
  _load               the checkpoint with its quantizers, or a one-shot recipe applied to it
  _export_onnx        upstream writes its graph into a scratch folder; sparse_export_graph; verified; moved into place
seams restored
sparse_export_done    report
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypeVar

import onnx
import torch

from yolov5_sparse_plugin import manager, recipes_io
from yolov5_sparse_plugin.checkpoints import formats
from yolov5_sparse_plugin.checkpoints.file import look
from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.contract import Schedule
from yolov5_sparse_plugin.engine.native.fake_quantize import Grid, disable_fake_quant, enable_fake_quant
from yolov5_sparse_plugin.errors import CheckpointError, ExportError, OptionError, SparsePluginError, there
from yolov5_sparse_plugin.export import images, marks, verify
from yolov5_sparse_plugin.export.scratch import scratch_folder
from yolov5_sparse_plugin.hosts import current
from yolov5_sparse_plugin.hosts.host import HostModel
from yolov5_sparse_plugin.hosts.log import Said, say
from yolov5_sparse_plugin.hosts.patchset import PatchSet, undecorated
from yolov5_sparse_plugin.options import SparseOptions

EXPORTED = "YOLOv5 has to load the model first, and for the graph to export it."
Entered = TypeVar("Entered")
QUANTIZED_OPSET = 17
CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Verified:
    """A graph, as it is in the file, and how it compares with the torch model."""

    graph: onnx.ModelProto
    findings: verify.Findings


class ExportRun:
    """State of an export, see `runs.Export`.

    Attributes:
        hook: calls the hooks.
        part: the checkpoint's sparse part, None for one of plain YOLOv5.
        schedule: the one-shot recipe's, None without.
        sparse: whether there is anything for this plugin to do but to repair upstream's command.
    """

    def __init__(
        self, upstream: Callable, options: SparseOptions, arguments: dict[str, Any], typed: set[str], hooks: Any
    ):
        self._upstream = upstream
        self.options, self.arguments, self.typed = options, arguments, typed
        self.hooks, self.hook = hooks, hooks.hook
        self.weights = Path(arguments["weights"])
        self.target = options.target
        file = look(self.weights)
        self.part = file.part
        opt = file.ckpt.get("opt") if file.sparse else None
        self._trained = opt.get("imgsz") if isinstance(opt, dict) else None
        self.schedule = self._one_shot_schedule(options.one_shot) if options.one_shot else None
        self.quantized = file.quantized
        self.quantized |= bool(self.schedule and self.schedule.quantizes)
        asked = {"target", "one_shot", "export_samples", "uint8_input", "hooks", "baseline"} & set(options.origin)
        self.sparse = bool(self.part or asked or ("report" in options.origin and options.report != "none"))
        self._model: torch.nn.Module | None = None
        self._verified: Verified | None = None
        self._written: Path | None = None
        self._closing = contextlib.ExitStack()

    @property
    def host(self) -> dict[str, Any]:
        """The host's namespace: the globals of its export module."""
        return inspect.unwrap(self._upstream).__globals__

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        return self.input_size(self._model)

    @property
    def model(self) -> torch.nn.Module:
        return there(self._model, "export.model", EXPORTED)

    @property
    def graph(self) -> onnx.ModelProto:
        return there(self._verified, "export.graph", EXPORTED).graph

    @property
    def findings(self) -> verify.Findings:
        return there(self._verified, "export.findings", EXPORTED).findings

    def input_size(self, model: HostModel | None) -> tuple[int, int]:
        """Return height and width as upstream rounds them up for a model: to multiples of its stride, usually 32."""
        size = self.arguments.get("img") or self.arguments.get("imgsz") or [640]
        stride = int(max(model.stride)) if model is not None else 32
        return math.ceil(size[0] / stride) * stride, math.ceil(size[-1] / stride) * stride

    def say(self, message: str, warn: bool = False) -> None:
        say(self.host, message, warn)

    def warn(self, message: str) -> None:
        say(self.host, message, warn=True)

    def calibration_files(self, count: int) -> list[Path]:
        """Return images of the data set that the user named; of the training split, spread over it."""
        return images.readable(images.files(Path(str(self.arguments["data"])), "train"), count, self.warn)

    def verification_images(self, count: int) -> tuple[list[Any], str]:
        """Return up to `count` images of --data's validation split, and where they are from.

        Without --data it is a single one, generated: there is nothing on it to be found.
        """
        if "data" not in self.typed:
            return list(images.generated(1, self.size)), "generated image (name real ones with --data)"
        data = Path(str(self.arguments["data"]))
        files = images.readable(images.files(data, "val"), count, self.warn)
        return list(images.load(files, self.size)), f"images of {data}"

    # ------------------------------------------------------------------------------------------------ before it runs

    def _one_shot_schedule(self, recipe: str) -> Schedule:
        address = manager.resolve(self.hooks, "recipe", recipe, self.options)
        schedule = engines.schedules(engines.chosen(self.options.engine, self.options.asked("engine")))
        return schedule.load(recipes_io.read(address, self.options.asked("one_shot")), self.options.recipe_args)

    def check(self) -> None:
        """Refuse what cannot work, before anything is loaded.

        Raises:
            OptionError, ExportError, CheckpointError: with what to type instead.
        """
        options, include = self.options, self.arguments["include"]
        if self.schedule is not None:
            if self.part and formats.is_quantized(self.part):
                raise CheckpointError(f"{options.asked('one_shot')}: {self.weights} is quantized already.")
            if self.quantized and "data" not in self.typed:
                raise OptionError(
                    f"{options.asked('one_shot')}: quantization is calibrated on images. Add --data data.yaml (or a "
                    "folder of images)."
                )
        if options.export_samples and "data" not in self.typed:
            raise OptionError(f"{options.asked('export_samples')}: name the images with --data.")
        if options.export_samples and "onnx" not in include:
            raise OptionError(f"{options.asked('export_samples')}: samples go with an ONNX file. Add --include onnx.")
        if options.uint8_input and not self.quantized:
            raise OptionError(
                f"{options.asked('uint8_input')}: only a quantized model can take uint8 images; this one is float."
            )
        if not {"img", "imgsz"} & self.typed and type(self._trained) is int and self._trained != self.size[0]:
            self.warn(
                f"{self.weights} was trained on images of {self._trained} px, and is exported for {self.size[0]}: "
                f"--imgsz {self._trained} is the size that it knows"
            )
        if self.sparse and "data" in self.typed:
            images.files(Path(str(self.arguments["data"])), "val")  # before minutes of work, not after
        if not self.quantized:
            if "target" in options.origin:
                self.say(f"{options.asked('target')}: no effect, {self.weights} is a float model", warn=True)
            return
        if "include" not in self.typed:
            self.arguments["include"] = include = ["onnx"]  # upstream's default has TorchScript as well
        others = [name for name in include if name != "onnx"]
        if others:
            raise ExportError(
                f"--include {others[0]}: {self.weights} is quantized, and its 8-bit graph exists as ONNX only. Use "
                "--include onnx (OpenVINO reads that file as it is: --sparse-target openvino), or export the float "
                "model of the run, best_pruned.pt or best_dense.pt."
            )
        if self.arguments["half"]:
            raise OptionError("--half: a quantized model stores 8 bits already, and FP16 would move its scales.")
        if "opset" in self.typed and int(self.arguments["opset"]) < 13:
            raise OptionError(
                f"--opset {self.arguments['opset']}: a scale for every channel needs opset 13. Use 13 or newer, or "
                f"leave it out to get {QUANTIZED_OPSET}."
            )
        if "opset" not in self.typed:
            self.arguments["opset"] = QUANTIZED_OPSET
        self.arguments["simplify"] = False  # the passes do it, and know quantizers

    # ------------------------------------------------------------------------------------------------- while it runs

    def execute(self) -> list[str]:
        """Run the host's export; return the files that it wrote."""
        gc.freeze()  # what torch and YOLOv5 hold need not be walked again and again while graphs are being built
        with self._telling(), self._closing:
            self._closing.callback(gc.unfreeze)
            if self.sparse:
                self.hook.sparse_export_start(export=self)
            # the other formats take minutes, and make garbage
            with uncollected() if self.arguments["include"] == ["onnx"] else contextlib.nullcontext():
                files = self._call_upstream()
            if self.sparse and self._written:
                self.hook.sparse_export_done(export=self, file=self._written)
        return Said(files) if self.sparse else files

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of an interrupt what there is, and note that it has been said."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            there = f"{self._written} is complete, without its report" if self._written else "no file was written"
            self.say(f"interrupted; {there}", warn=True)
            vars(interrupt)["said"] = True
            raise

    def lasting(self, context: contextlib.AbstractContextManager[Entered]) -> Entered:
        """Enter a context that ends with the export, however that ends."""
        return self._closing.enter_context(context)

    def _call_upstream(self) -> list[str]:
        function = inspect.unwrap(self._upstream)
        seams = {"export_load": self._load, "export_onnx": self._export_onnx}
        with PatchSet(function, seams, current.host().title):
            files = self._upstream(**self.arguments)
        missing = [name for name in self.arguments["include"] if not self._among(name, files or [])]
        if missing:
            raise ExportError(
                f"--include {','.join(missing)}: could not be written; the lines marked ❌ above say why."
            )
        return files

    def export_as_upstream(self, model: HostModel, weights: Path) -> Path:
        """Let the host export another model as float32 ONNX, in the shape of this one, and say nothing of it.

        Args:
            model: the host's, float32, in `eval()`; fused in place.
            weights: where its checkpoint would be; the ONNX file stands beside it.

        Returns:
            The ONNX file.
        """

        def export_onnx(decorated: Callable) -> Callable:
            inner = undecorated(decorated)

            def export(*args: Any, **kwargs: Any) -> Any:
                with PatchSet(inner, {"trace": by_tracing}):
                    return inner(*args, **kwargs)

            return export

        plain = {"weights": str(weights), "include": ["onnx"], "device": "cpu", "half": False, "simplify": False}
        seams = {"export_load": lambda _: lambda *args, **kwargs: model.fuse().eval(), "export_onnx": export_onnx}
        log = self.host["LOGGER"]
        level = log.level
        with PatchSet(inspect.unwrap(self._upstream), seams, current.host().title):
            log.setLevel(logging.ERROR)
            try:
                self._upstream(**{**self.arguments, **plain})
            finally:
                log.setLevel(level)
        return weights.with_suffix(".onnx")

    def _among(self, name: str, files: list[str]) -> bool:
        """Return whether the format `name` is among the files that upstream says it wrote."""
        formats = self.host["export_formats"]()
        suffixes = dict(zip(formats["Argument"], formats["Suffix"]))
        longer = [s for s in suffixes.values() if s != suffixes[name] and s.endswith(suffixes[name])]
        found = [str(file).rstrip("/" + os.sep) for file in files if file]
        return any(file.endswith(suffixes[name]) and not file.endswith(tuple(longer)) for file in found)

    def _load(self, attempt_load: Callable) -> Callable:
        def load(weights: Any, *args: Any, **kwargs: Any) -> HostModel:
            fuse = kwargs.pop("fuse", True)
            try:
                with torch.inference_mode(False):  # upstream's run() is in it, and its tensors cannot be calibrated
                    model: HostModel = attempt_load(weights, *args, **kwargs, fuse=False)
            except SparsePluginError:
                raise
            except Exception as error:
                raise CheckpointError(f"--weights {weights}: not a YOLOv5 checkpoint ({error}).") from error
            self._model = model
            if self.schedule is not None:
                model = self._apply_one_shot(model, self.schedule)
            elif fuse and hasattr(model, "fuse"):
                model = model.fuse()
            self._model = model.eval()
            disable_fake_quant(model)  # upstream runs it twice for the shapes of its outputs alone
            return model

        return load

    def _apply_one_shot(self, model: HostModel, schedule: Schedule) -> HostModel:
        from yolov5_sparse_plugin.export import one_shot

        if type(model) is not self.host["DetectionModel"]:  # segmentation models are a subclass
            raise CheckpointError(
                f"{self.options.asked('one_shot')}: {self.weights} is a {type(model).__name__}; only "
                "detection models can be quantized."
            )
        files = self.calibration_files(CALIBRATION_IMAGES) if self.quantized else []
        with torch.inference_mode(False):
            return one_shot.apply(model, schedule, images.load(files, self.size), len(files))

    def _export_onnx(self, decorated: Callable) -> Callable:
        inner = undecorated(decorated)

        from yolov5_sparse_plugin.export import report

        def export_onnx(model: Any, im: Any, file: Any, *args: Any, **kwargs: Any) -> tuple[str, None]:
            started, final = time.perf_counter(), Path(file).with_suffix(".onnx")
            enable_fake_quant(self.model)
            with scratch_folder(final) as folder:
                with marks.marked(self.model) as grids, PatchSet(inner, {"trace": by_tracing}):
                    inner(model, im, folder / Path(file).name, *args, **kwargs)
                written = folder / final.name
                if self.sparse:
                    self._finish(written, grids)
                report.forget(final)
                os.replace(written, final)
                for samples in folder.glob("sample-*"):
                    shutil.rmtree(final.parent / samples.name, ignore_errors=True)  # those of an earlier export
                    os.replace(samples, final.parent / samples.name)
            self._written = final
            seconds, megabytes = time.perf_counter() - started, final.stat().st_size / 1e6
            self.say(f"ONNX export took {seconds:.1f}s, saved as {final} ({megabytes:.1f} MB)")
            return str(final), None

        return export_onnx

    def _finish(self, file: Path, grids: dict[str, Grid]) -> None:
        """Put the quantizers into the graph at `file`, let the hooks rewrite it, compare it with the torch model."""
        model = onnx.shape_inference.infer_shapes(marks.with_quantizers(onnx.load(str(file)), grids))
        fixed = self.hook.sparse_export_graph(export=self, model=model)
        if fixed is not None:
            model = fixed
        if fixed is not None or grids:  # upstream's own file stays as it is
            onnx.save(model, str(file))
        findings = verify.verify(self, model, file)
        self._verified = Verified(model, findings)
        for line in findings.lines():
            self.say(line)
        if findings.suspicious:
            self.say(
                "the graph finds something else than the model does; look at the report before you use it", warn=True
            )
        if self.options.export_samples:
            verify.write_samples(self, file, file.parent)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Let Python look for no garbage meanwhile: graphs and checkpoints are many small objects, and all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def by_tracing(torch_export: Callable) -> Callable:
    """Let torch >= 2.9 trace: its newer exporter ignores the opset and needs a package that SparseML excludes.

    Where a host asks for the newer one, it is told of the marks.
    """
    if "dynamo" not in inspect.signature(torch_export).parameters:
        return torch_export

    def export(*args: Any, **kwargs: Any) -> Any:
        if kwargs.setdefault("dynamo", False):
            kwargs.setdefault("custom_translation_table", marks.translation())
        return torch_export(*args, **kwargs)

    return export
