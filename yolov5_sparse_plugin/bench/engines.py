"""The CPU engines that people deploy ONNX models with: whether they are here, and how to run a model in each.

Nothing of an engine is imported before `Engine.prepare`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable

from yolov5_sparse_plugin import telemetry
from yolov5_sparse_plugin.bench import onnx_input


@dataclass(frozen=True)
class Inference:
    """A loaded model: each call runs one inference on the same input; `remark` is what a user should know of it."""

    run: Callable[[], Any]
    remark: str | None = None

    def __call__(self) -> Any:
        return self.run()


@dataclass(frozen=True)
class Engine:
    """An engine: `title` is its makers' name for it, `pip` the command that brings it.

    Attributes:
        unneeded: modules that it imports where they are installed, and runs models without.
    """

    title: str
    module: str
    distributions: tuple[str, ...]
    pip: str
    loader: Callable[[onnx_input.ImageInput, Sequence[int], Any, int], Inference]
    unneeded: tuple[str, ...] = ()

    def installed(self) -> bool:
        """Say whether the engine can be imported, without importing it."""
        spec = importlib.util.find_spec(self.module)
        return spec is not None and spec.origin is not None  # no origin: some folder that has the same name

    def version(self) -> str | None:
        """Return the installed version; None where no known distribution of it is installed."""
        for name in self.distributions:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    def prepare(self) -> None:
        """Import the engine, a second's work, so that `load` finds it there; for a process of its own only."""
        # DeepSparse and OpenVINO report to their makers at import unless told not to; OpenVINO forks a process for it,
        # and leaves it alone where it believes to be in a continuous integration
        telemetry.switch_off()
        os.environ["CI"] = "true"
        for name in self.unneeded:
            # importing it fails, as if it were not installed
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # typeshed knows no None there, Python does
        importlib.import_module(self.module)

    def load(self, path: Path, batch: int, img: int | Sequence[int] | None, threads: int) -> Inference:
        """Load the ONNX model in `path`, to run on a fixed random input of `batch` images with `threads` threads.

        Raises:
            BenchError: the file is no such model, or its shape is another one.
            Exception: whatever the engine raises; DeepSparse may also end the process.
        """
        self.prepare()
        model = onnx_input.read(path)
        return self.loader(model, model.resolve(batch, img), model.random(batch, img), threads)


def _onnxruntime(model: onnx_input.ImageInput, shape: Sequence[int], images: Any, threads: int) -> Inference:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # its threads wait for the next call by spinning: not while the model beside it is being timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    return Inference(lambda: session.run(None, {model.name: images}))


def _openvino(model: onnx_input.ImageInput, shape: Sequence[int], images: Any, threads: int) -> Inference:
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model.path))
    if model.dynamic:
        network.reshape({model.name: list(shape)})
    wishes = {
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16, where the CPU has it, is another model than the one given
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(network, "CPU", wishes).create_infer_request()
    return Inference(lambda: request.infer({model.name: images}, share_inputs=True))


def _deepsparse(model: onnx_input.ImageInput, shape: Sequence[int], images: Any, threads: int) -> Inference:
    import deepsparse

    with tempfile.TemporaryDirectory() as folder:
        # a copy, because DeepSparse's own way to ask for a shape (input_shapes) overwrites the user's file
        path = onnx_input.with_shape(model, shape, Path(folder)) if model.dynamic else model.path
        engine = deepsparse.Engine(str(path), batch_size=shape[0], num_cores=threads)
    own, remark = engine.fraction_of_supported_ops, None
    if own < 0.99:
        remark = f"DeepSparse itself runs {own:.0%} of the operators, the ONNX Runtime inside it the rest"
    return Inference(lambda: engine.run([images]), remark)


ENGINES: dict[str, Engine] = {
    "onnxruntime": Engine(
        "ONNX Runtime",
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "pip install onnxruntime",
        _onnxruntime,
    ),
    "openvino": Engine("OpenVINO", "openvino", ("openvino", "openvino-nightly"), "pip install openvino", _openvino),
    # 1.8.0 is its last release
    "deepsparse": Engine(
        "DeepSparse",
        "deepsparse",
        ("deepsparse", "deepsparse-nightly"),
        "pip install deepsparse==1.8.0",
        _deepsparse,
        unneeded=("torch",),  # two of the three seconds that its import takes
    ),
}
