"""Compare an exported graph with the torch model that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
import torchvision

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export.layers import module_of, weights_of, zeros_of

if TYPE_CHECKING:
    from yolov5_sparse_plugin.export.run import ExportRun

IMAGES = 8
CONFIDENCE, OVERLAP, SAME = 0.25, 0.45, 0.9  # of a detection; of two for one object; of two that are the same


@dataclass
class Findings:
    """What a comparison found.

    Attributes:
        images: how many images were compared. source: where they are from.
        box_max, box_mean: differences of box coordinates, in pixels of the model's input.
        confidence_max, confidence_mean: differences of the scores (objectness times class), 0..1.
        detections: number that the torch model finds (confidence 0.25). matched: share of them, 0..1, that the graph
            finds with the same class at IoU 0.9; None where there are none.
        sparsity: zeros among the weights of all convolutions, 0..1. layers: the same by layer: name -> (torch, ONNX).
    """

    images: int
    source: str
    box_max: float
    box_mean: float
    confidence_max: float
    confidence_mean: float
    detections: int
    matched: float | None
    sparsity: float
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what a user wants to know, as sentences."""
        matched = (
            "no detections to compare"
            if self.matched is None
            else (f"{self.matched:.1%} of {self.detections} detections matched at IoU {SAME}")
        )
        return [
            f"ONNX Runtime against torch on {self.images} {self.source}: {matched}; boxes differ by "
            f"{self.box_mean:.2f} px on average and {self.box_max:.1f} at most, scores by "
            f"{self.confidence_mean:.4f} and {self.confidence_max:.3f}",
            f"sparsity kept in all {len(self.layers)} convolutions: {self.sparsity:.1%} of their weights are zero",
        ]

    @property
    def suspicious(self) -> bool:
        """Whether the two differ by more than rounding explains."""
        return self.confidence_mean > 0.05 or (self.detections >= 10 and self.matched < 0.5)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(export: ExportRun, model: onnx.ModelProto, file: Path) -> Findings:
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
    boxes = np.abs(ours[..., :4] - theirs[..., :4])
    scores = np.abs(ours[..., 4:5] * ours[..., 5:] - theirs[..., 4:5] * theirs[..., 5:])
    counted = [match(a, b) for a, b in zip(theirs, ours)]
    detections = sum(total for _, total in counted)
    layers = compare_sparsity(export.model, model)
    return Findings(
        images=len(given),
        source=source,
        box_max=float(boxes.max()),
        box_mean=float(boxes.mean()),
        confidence_max=float(scores.max()),
        confidence_mean=float(scores.mean()),
        detections=detections,
        matched=sum(same for same, _ in counted) / detections if detections else None,
        sparsity=zeros_of(model),
        layers=layers,
    )


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


def run(session: Any, images: list[np.ndarray]) -> np.ndarray:
    """Return the graph's predictions, float32 [images, boxes, 5 + classes]; `images` as from `images.load`.

    A graph of a fixed batch gets that many images at a time, the last one repeated to fill it.
    """
    wanted = session.get_inputs()[0]
    batch = wanted.shape[0] if isinstance(wanted.shape[0], int) else 1
    found = []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        together = as_input(session, np.concatenate([*some, *[some[-1]] * (batch - len(some))]))
        found.append(session.run(None, {wanted.name: together})[0][: len(some)].astype(np.float32))
    return np.concatenate(found)


def detect(prediction: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (boxes float32 [N, 4] as x1 y1 x2 y2, classes int64 [N]) after non-maximum suppression.

    Args:
        prediction: float32 [boxes, 5 + classes]: x, y, width, height, objectness, class scores.
    """
    rows = torch.from_numpy(prediction)
    score, label = (rows[:, 4:5] * rows[:, 5:]).max(1)
    kept = score > CONFIDENCE
    rows, score, label = rows[kept], score[kept], label[kept]
    boxes = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    order = torchvision.ops.batched_nms(boxes, score, label, OVERLAP)
    return boxes[order], label[order]


def match(theirs: np.ndarray, ours: np.ndarray) -> tuple[int, int]:
    """Return how many detections of `theirs` are also in `ours`, and how many there are; forms as in `detect`."""
    (boxes, labels), (other, other_labels) = detect(theirs), detect(ours)
    if not len(boxes) or not len(other):
        return 0, len(boxes)
    overlap = torchvision.ops.box_iou(boxes, other)
    overlap[labels[:, None] != other_labels[None]] = 0
    return int((overlap.max(1).values >= SAME).sum()), len(boxes)


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


def write_samples(export: ExportRun, file: Path, folder: Path) -> None:
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
