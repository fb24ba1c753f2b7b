"""What an ONNX model wants to be fed: its one image input, and a random image of that kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov5_sparse_plugin.errors import BenchError

CHECKPOINTS = (".pt", ".pth", ".torchscript")
DTYPES = ("float32", "float16", "uint8")
IMG = 640  # pixels; what a dynamic model is given unless the user says otherwise, as in YOLOv5's own commands


@dataclass(frozen=True)
class ImageInput:
    """The input of the model in `path`: `shape` is [B, 3, H, W], None where a dimension is dynamic."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def dynamic(self) -> bool:
        return None in self.shape

    def resolve(self, batch: int, img: int | Sequence[int] | None) -> tuple[int, int, int, int]:
        """Return the shape [B, 3, H, W] for `batch` images of `img` pixels a side (None: the model's own, or 640).

        Args:
            img: one number, or height and width.

        Raises:
            BenchError: the model's shape is fixed and another one.
        """
        images, channels, height, width = self.shape
        if images is not None and images != batch:
            raise BenchError(
                f"bench {self.path} with --batch {batch}: this model always takes {images} image(s) at once. "
                f"Use --batch {images}, or export it with --dynamic or --batch-size {batch}."
            )
        asked = (img, img) if img is None or isinstance(img, int) else tuple(img)
        if img is not None and (height not in (None, asked[0]) or width not in (None, asked[1])):
            raise BenchError(
                f"bench {self.path} with --img {img}: this model always takes images of {height or 'any'} x "
                f"{width or 'any'} pixels. Leave --img out, or export it with --dynamic or --imgsz {img}."
            )
        return batch, channels or 3, height or asked[0] or IMG, width or asked[1] or IMG

    def random(self, batch: int, img: int | Sequence[int] | None) -> Any:
        """Return the same random images at every call: an array of the model's dtype, 0..1 or, for uint8, 0..255."""
        import numpy as np

        pixels = np.random.default_rng(0).random(self.resolve(batch, img), dtype=np.float32)
        return np.ascontiguousarray(pixels * 255 if self.dtype == "uint8" else pixels, dtype=self.dtype)


def read(path: Path) -> ImageInput:
    """Read the input of an ONNX file; its weights are not looked at.

    Raises:
        BenchError: no such file, not an ONNX model, or not one that takes images.
    """
    if not path.is_file():
        found = "this is a directory" if path.is_dir() else "there is no such file"
        raise BenchError(f"bench {path}: {found}. Give the path of an exported .onnx model.")
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # how torch.save writes
    if path.suffix in CHECKPOINTS or zipped:
        raise BenchError(
            f"bench {path}: this is a PyTorch file, and the engines run ONNX models. Export it first: "
            f"yolov5 export --weights {path} --include onnx"
        )
    graph = _graph(path)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BenchError(
            f"bench {path}: needs a model with one input, images [batch, 3, height, width]; this one's: {names}. "
            "Give a detection model that yolov5 export wrote."
        )
    dtype = _dtype(inputs[0])
    if dtype not in DTYPES:
        raise BenchError(
            f"bench {path}: its input {inputs[0].name!r} is {dtype}; images are {', '.join(DTYPES)}. Export it again."
        )
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    return ImageInput(path, inputs[0].name, dtype, shape)


def with_shape(model: ImageInput, shape: Sequence[int], folder: Path) -> Path:
    """Write a copy of a dynamic model into `folder` that takes `shape` [B, 3, H, W] only, and return its path."""
    import onnx

    copy = onnx.load(str(model.path))
    (value,) = (value for value in copy.graph.input if value.name == model.name)
    for dim, size in zip(value.type.tensor_type.shape.dim, shape):
        dim.dim_value = size
    onnx.save(copy, str(folder / model.path.name))
    return folder / model.path.name


def _graph(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except DecodeError as error:
        raise BenchError(f"bench {path}: this is not an ONNX file ({error}). Give an exported .onnx model.") from error
    if not graph.node:
        raise BenchError(f"bench {path}: there is no model in this ONNX file. Export it again.")
    return graph


def _dtype(value: Any) -> str:
    from onnx import TensorProto

    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
