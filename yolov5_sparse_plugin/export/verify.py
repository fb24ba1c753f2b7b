"""Compare an exported graph with the torch model that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export.detections import detect, matched
from yolov5_sparse_plugin.export.layers import module_of, weights_of, zeros_of

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Export

IMAGES = 8
# what rounding to 8 bits does to trained models, see docs/performance.md: of what one finds the other finds this share,
# coordinates, in pixels, and scores differ by this much on average
NORMAL_SHARE, NORMAL_PIXELS, NORMAL_SCORE = 0.95, 2.0, 0.02
FEW = 20  # detections of which a share says little


@dataclass
class Apart:
    """How far two sets of numbers are apart: `mean` and `most`."""

    mean: float
    most: float

    @classmethod
    def of(cls, differences: np.ndarray) -> Apart:
        return cls(float(differences.mean()), float(differences.max())) if differences.size else cls(0.0, 0.0)


@dataclass
class Findings:
    """What a comparison found.

    Attributes:
        images: how many images were compared. source: where they are from.
        quantized: whether the model rounds to 8 bits; torch does it in other places than the graph.
        by_torch, by_graph: number of detections (confidence 0.25). by_both: pairs of the same class at IoU 0.5.
        pixels: differences of the coordinates of those pairs, in pixels of the model's input. scores: of their scores.
        all_pixels, all_scores: the same of all that the model computes, of which nearly nothing is a detection; scores
            are objectness times class.
        sparsity: zeros among the weights of all convolutions, 0..1. layers: the same by layer: name -> (torch, ONNX).
    """

    images: int
    source: str
    quantized: bool
    by_torch: int
    by_graph: int
    by_both: int
    pixels: Apart
    scores: Apart
    all_pixels: Apart
    all_scores: Apart
    sparsity: float
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what a user wants to know, as sentences."""
        return [
            f"ONNX Runtime against torch on {self.images} {self.source}: {self.in_words()}",
            f"sparsity kept in all {len(self.layers)} convolutions: {self.sparsity:.1%} of their weights are zero",
        ]

    def in_words(self) -> str:
        if not self.by_torch and not self.by_graph:
            return f"nothing is detected; all scores differ by {self.all_scores.mean:.5f} on average"
        return (
            f"{self.by_both} of {self.by_torch} detections are found by both, {self.pixels.mean:.2f} px and "
            f"{self.scores.mean:.3f} in score apart on average; {self.by_torch - self.by_both} by torch alone, "
            f"{self.by_graph - self.by_both} by the graph alone{f': {self.verdict()}' if self.quantized else ''}"
        )

    def verdict(self) -> str:
        """Say whether that is what 8 bits cost."""
        found = max(self.by_torch, self.by_graph)
        if found < FEW:
            return "few to judge by"
        apart = self.pixels.mean > NORMAL_PIXELS or self.scores.mean > NORMAL_SCORE
        if self.by_both >= NORMAL_SHARE * found and not apart:
            return "normal for 8 bits"
        return (
            f"more apart than 8 bits usually are ({NORMAL_SHARE:.0%}, {NORMAL_PIXELS:g} px, {NORMAL_SCORE:g}): "
            "compare mAP before you deploy it"
        )

    @property
    def suspicious(self) -> bool:
        """Whether the two differ by more than rounding explains."""
        found = max(self.by_torch, self.by_graph)
        return self.all_scores.mean > 0.05 or (found >= 10 and self.by_both < 0.75 * found)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "verdict": self.verdict() if self.quantized and (self.by_torch or self.by_graph) else None,
        }


def verify(export: Export, model: onnx.ModelProto, file: Path) -> Findings:
    """Check `file`, which holds `model`, run it in ONNX Runtime beside the torch model, and compare.

    Raises:
        ExportError: the graph is invalid or does not run, computes something of another shape or no numbers, or lost
            zeros.
    """
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    given, source = export.verification_images(IMAGES)
    try:
        session = load_session(file)
        theirs = np.concatenate([torch_output(export.model, image) for image in given])
        ours = run(session, given)
    except Exception as error:  # the engine's own classes
        raise ExportError(f"the exported graph does not run: {type(error).__name__}: {error}") from error
    if theirs.shape != ours.shape or not np.isfinite(ours).all():
        raise ExportError(
            f"the exported graph does not compute what the model does: {ours.shape}, torch {theirs.shape}"
            + ("" if np.isfinite(ours).all() else ", with values that are no numbers")
            + "."
        )
    layers = compare_sparsity(export.model, model)
    return Findings(
        images=len(given),
        source=source,
        quantized=export.quantized,
        **compare(theirs, ours),
        sparsity=zeros_of(model),
        layers=layers,
    )


def compare(theirs: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """Return the part of `Findings` that is about predictions of torch and of the graph for the same images.

    Args:
        theirs, ours: float32 [images, boxes, 5 + classes]: x, y, width, height, objectness, class scores.
    """
    by_torch, by_graph = [detect(each) for each in theirs], [detect(each) for each in ours]
    pairs = [matched(one, other) for one, other in zip(by_torch, by_graph)]
    pixels, scores = [], []
    for one, other, found in zip(by_torch, by_graph, pairs):
        for i, j in found:
            pixels.append((one.boxes[i] - other.boxes[j]).abs().numpy())
            scores.append(abs(float(one.scores[i] - other.scores[j])))
    return {
        "by_torch": sum(map(len, by_torch)),
        "by_graph": sum(map(len, by_graph)),
        "by_both": sum(map(len, pairs)),
        "pixels": Apart.of(np.array(pixels)),
        "scores": Apart.of(np.array(scores)),
        "all_pixels": Apart.of(np.abs(ours[..., :4] - theirs[..., :4])),
        "all_scores": Apart.of(np.abs(ours[..., 4:5] * ours[..., 5:] - theirs[..., 4:5] * theirs[..., 5:])),
    }


def load_session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def torch_output(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Return the model's decoded predictions, float32 [1, boxes, 5 + classes]."""
    parameter = next(model.parameters())
    with torch.no_grad():
        output = model(torch.from_numpy(image).to(parameter.device, parameter.dtype))
    return (output[0] if isinstance(output, (list, tuple)) else output).float().cpu().numpy()


def as_input(session: Any, images: np.ndarray) -> np.ndarray:
    """Return `images` (float32, 0..1) in the type that the graph takes: uint8 0..255, float16 or float32."""
    wanted = session.get_inputs()[0].type
    if wanted == "tensor(uint8)":
        return np.round(images * 255).astype(np.uint8)
    return images.astype(np.float16) if wanted == "tensor(float16)" else images


def batch_of(session: Any) -> int:
    """Return how many images a graph takes at once; of any number, one."""
    batch = session.get_inputs()[0].shape[0]
    return batch if isinstance(batch, int) else 1


def run(session: Any, images: list[np.ndarray]) -> np.ndarray:
    """Return the graph's predictions, float32 [images, boxes, 5 + classes]; `images` as from `images.load`.

    A graph of a fixed batch gets that many images at a time, the last one repeated to fill it.
    """
    wanted, batch = session.get_inputs()[0], batch_of(session)
    found = []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        together = as_input(session, np.concatenate([*some, *[some[-1]] * (batch - len(some))]))
        found.append(session.run(None, {wanted.name: together})[0][: len(some)].astype(np.float32))
    return np.concatenate(found)


def compare_sparsity(model: torch.nn.Module, exported: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Return name -> (zeros in torch, zeros in the graph), 0..1, of every convolution.

    Raises:
        ExportError: a layer lost zeros.
    """
    torch_layers = {
        name: float((module.weight == 0).float().mean())
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    graph_layers = {module_of(node): float((array == 0).mean()) for node, array in weights_of(exported)}
    missing = set(torch_layers) - set(graph_layers)
    if missing:
        raise ExportError(f"the exported graph lacks {len(missing)} convolutions, among them {min(missing)!r}.")
    for name, before in torch_layers.items():
        if graph_layers[name] < before - 1e-6:
            raise ExportError(f"{name} lost zeros: {before:.2%} in torch, {graph_layers[name]:.2%} in the graph.")
    return {name: (before, graph_layers[name]) for name, before in torch_layers.items()}


def write_samples(export: Export, file: Path, folder: Path) -> None:
    """Write N images and the graph's outputs for them: sample-inputs/inp-0000.npz and sample-outputs/out-0000.npz.

    The layout is that of a SparseZoo model, which DeepSparse's tools read; arrays are stored without the batch axis.
    """
    from tqdm import tqdm

    from yolov5_sparse_plugin.export import images

    session = load_session(file)
    count = export.options.export_samples
    files = export.calibration_files(count)
    if len(files) < count:
        export.say(f"--sparse-export-samples {count}: --data has only {len(files)} images", warn=True)
    for kind in ("sample-inputs", "sample-outputs"):
        (folder / kind).mkdir(exist_ok=True)
    wanted = session.get_inputs()[0]
    loaded = tqdm(images.load(files, export.size), total=len(files), desc="samples", unit="image")
    for number, image in enumerate(loaded):
        output = run(session, [image])
        np.savez_compressed(
            folder / "sample-inputs" / f"inp-{number:04}.npz", **{wanted.name: as_input(session, image)[0]}
        )
        np.savez_compressed(folder / "sample-outputs" / f"out-{number:04}.npz", output0=output[0])
    export.say(f"wrote {len(files)} pairs into sample-inputs and sample-outputs beside the model")
