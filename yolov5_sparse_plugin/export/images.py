"""Images for calibration and verification, letterboxed as YOLOv5 does for inference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, TypeVar

import cv2
import numpy as np
from PIL import Image

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.hosts import datasets

T = TypeVar("T")
FORMATS = ("bmp", "dng", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp")  # YOLOv5's IMG_FORMATS
SUFFIXES = {f".{name}" for name in FORMATS}
GREY = 114  # YOLOv5 pads with it
LEAST = 10  # pixels a side; smaller images YOLOv5 leaves out of a data set
JPEG_END = b"\xff\xd9"


def files(data: Path, split: str = "train") -> list[Path]:
    """Return the image files of one split of a data set, sorted.

    Args:
        data: a data.yaml in YOLOv5's form, a folder of images, or a text file that lists images.
        split: `train` or `val`; of a data.yaml only.

    Raises:
        ExportError: there is no such data set, or it has no images.
        OptionError: the file is not the YAML of a data set.
    """
    if not data.exists():
        raise ExportError(f"--data {data}: there is no such file. Name a data.yaml or a folder of images.")
    sources, downloads = _sources(data, split)
    found = sorted(path for source in sources for path in _within(source))
    if not found:
        advice = "Check 'path:' in it: absolute, or relative to the file or to the current directory."
        if downloads:
            advice += (
                " What its 'download:' line says is not done here, because that may run anything. If you trust it, let "
                f"'yolov5 val --data {data}' do it first."
            )
        where = ", ".join(map(str, sources)) or "any path"
        raise ExportError(f"--data {data}: no images for {split!r} at {where}. {advice}")
    return found


def _sources(data: Path, split: str) -> tuple[list[Path], bool]:
    """Return the folders, lists and images that a data set consists of, and whether its YAML could download them."""
    if data.suffix.lower() not in (".yaml", ".yml"):
        return [data], False
    content = datasets.read(data)
    listed = content.get(split) or content.get("val") or []
    root = Path(str(content.get("path") or ""))
    # YOLOv5 takes a relative path from its own folder; people mean the file's, or the one they are in
    root = next((base / root for base in (data.parent, Path.cwd()) if (base / root).is_dir()), root)
    listed = listed if isinstance(listed, list) else [listed]
    return [located(root, Path(str(path))) for path in listed], bool(content.get("download"))


def _within(source: Path) -> list[Path]:
    """Return the images of a folder, those that a text file lists, or the image itself."""
    if source.is_dir():
        return [path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES]
    if source.suffix.lower() == ".txt" and source.is_file():
        lines = (source.parent / line.strip() for line in source.read_text(errors="ignore").splitlines())
        return [path for path in lines if path.suffix.lower() in SUFFIXES]
    return [source] if source.suffix.lower() in SUFFIXES and source.is_file() else []


def located(root: Path, path: Path) -> Path:
    """Return where a path of a data.yaml is, as YOLOv5 finds it: `../images` may also mean `images` in `root`."""
    found = (root / path).resolve()
    if not found.exists() and path.parts[:1] == ("..",):
        found = root.joinpath(*path.parts[1:]).resolve()
    return found


def spread(given: list[T], count: int) -> list[T]:
    """Return `count` of what is given, evenly spread over the list, or all if there is no more."""
    if len(given) <= count:
        return given
    return [given[round(i * (len(given) - 1) / (count - 1))] for i in range(count)] if count > 1 else given[:count]


def read(path: Path) -> np.ndarray | None:
    """Return an image as YOLOv5 reads it, uint8 [H, W, 3], BGR.

    None where YOLOv5 leaves a file out of a data set (`verify_image_label`): it is no image of its formats, a very
    small one, or cut off. OpenCV alone would take a JPEG of which half is missing for one whose lower half is grey.
    """
    try:
        with Image.open(path) as image:
            image.verify()
            if min(image.size) < LEAST or image.format.lower() not in FORMATS:
                return None
            jpeg = image.format == "JPEG"
        if jpeg and not path.read_bytes().endswith(JPEG_END):
            with Image.open(path) as image:
                image.load()
    except Exception:  # a damaged file lets Pillow's readers raise anything
        return None
    return cv2.imread(str(path))


def readable(paths: list[Path], count: int, say: Callable[[str], None]) -> list[Path]:
    """Return `count` of the images, evenly spread; for those that cannot be read others, and a line that says so.

    Raises:
        ExportError: none of the whole list can be read.
    """
    chosen = spread(paths, count)
    good: list[Path] = []
    broken: list[Path] = []
    for path in dict.fromkeys([*chosen, *paths]):
        if len(good) == len(chosen):
            break
        (broken if read(path) is None else good).append(path)
    if not good:
        raise ExportError(
            f"--data: none of its {len(paths)} images can be read, the first is {paths[0]}. Copy or download the data "
            "set again, or check 'path:' in its YAML."
        )
    if broken:
        say(f"{len(broken)} of the images cannot be read and are left out, the first is {broken[0]}")
    return sorted(good)


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image to fit (height, width), pad it with grey on both sides.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    ratio = min(height / image.shape[0], width / image.shape[1])
    h, w = round(image.shape[0] * ratio), round(image.shape[1] * ratio)
    if (h, w) != image.shape[:2]:
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((height, width, 3), GREY, np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[top : top + h, left : left + w] = image
    return canvas


@dataclass(frozen=True)
class Placed:
    """An image as `yolov5 val` gives it to a model of fixed size.

    Attributes:
        image: uint8 [height, width, 3], BGR, letterboxed.
        shape: height and width of the file, in pixels.
        scaled: height and width that it has inside the letterbox.
        pad: grey to its left, and above it, in pixels; fractional, as YOLOv5 counts with it.
    """

    image: np.ndarray
    shape: tuple[int, int]
    scaled: tuple[int, int]
    pad: tuple[float, float]

    @property
    def ratio_pad(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What YOLOv5's `scale_boxes` takes to lead boxes back to the file's pixels."""
        return (self.scaled[0] / self.shape[0], self.scaled[1] / self.shape[1]), self.pad


def place(image: np.ndarray, size: tuple[int, int]) -> Placed:
    """Letterbox an image as `yolov5 val` does, which shrinks by area and rounds up, unlike `detect`.

    Args:
        image: uint8 [H, W, 3].
        size: height and width; YOLOv5's own loader knows squares only.
    """
    shape = image.shape[0], image.shape[1]
    ratio = min(size[0] / shape[0], size[1] / shape[1])
    if ratio != 1:
        width, height = math.ceil(shape[1] * ratio), math.ceil(shape[0] * ratio)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if ratio > 1 else cv2.INTER_AREA)
    scaled = image.shape[0], image.shape[1]
    fitting = min(1.0, size[0] / scaled[0], size[1] / scaled[1])  # what was rounded up may be a pixel too large
    h, w = round(scaled[0] * fitting), round(scaled[1] * fitting)
    return Placed(letterbox(image, size), shape, scaled, ((size[1] - w) / 2, (size[0] - h) / 2))


def as_input(image: np.ndarray) -> np.ndarray:
    """Return a letterboxed image, uint8 [height, width, 3], BGR, as float32 [1, 3, height, width], RGB, 0..1."""
    rgb = image[:, :, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(rgb[None], dtype=np.float32) / 255


def load(paths: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield each image as the exported model takes it; form as from `as_input`.

    Args:
        paths: as from `readable`.
    """
    for path in paths:
        yield as_input(letterbox(cv2.imread(str(path)), size))


def generated(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield `count` reproducible images of overlapping coloured blocks; form as from `load`."""
    random = np.random.default_rng(0)
    height, width = size
    for _ in range(count):
        image = np.zeros((3, height, width), np.float32) + random.uniform(0.2, 0.8, (3, 1, 1))
        for _ in range(24):
            top, left = random.integers(0, height), random.integers(0, width)
            h, w = random.integers(8, height // 2), random.integers(8, width // 2)
            image[:, top : top + h, left : left + w] = random.uniform(0, 1, (3, 1, 1))
        noise = random.normal(0, 0.03, image.shape)
        yield (np.round(np.clip(image + noise, 0, 1) * 255) / 255)[None].astype(np.float32)
