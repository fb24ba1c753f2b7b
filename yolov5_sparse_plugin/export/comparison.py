"""Say in words how an export compares with its baseline."""

from __future__ import annotations

from dataclasses import dataclass, field

from yolov5_sparse_plugin.bench.engines import ENGINES
from yolov5_sparse_plugin.export.accuracy import Scores

SHARES = (
    (1 / 10, "a tenth of"),
    (1 / 8, "an eighth of"),
    (1 / 6, "a sixth of"),
    (1 / 5, "a fifth of"),
    (1 / 4, "a quarter of"),
    (1 / 3, "a third of"),
    (1 / 2, "half"),
    (2 / 3, "two thirds of"),
    (3 / 4, "three quarters of"),
)
CLOSE = 0.06  # of a share, for its word


@dataclass
class Figures:
    """What was measured of one model.

    Attributes:
        name: what sentences call it.
        bytes: size of its ONNX file.
        macs: multiplications that its convolutions add up for one image, all and those whose weight is not zero; None
            where the graph does not tell.
        milliseconds: engine -> median time of a batch, of the engines that run it.
        scores: its mAP, None where it was not measured.
    """

    name: str
    bytes: int
    macs: tuple[int, int] | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    scores: Scores | None = None


def speed(ratio: float) -> str:
    """Return in words what it means to take `ratio` of another model's time: `2.4 times as fast as`."""
    how, times = ("fast", 1 / ratio) if ratio < 1 else ("slow", ratio)
    words = f"{times:.0f}" if times >= 10 else f"{times:.1f}"
    return "as fast as" if words == "1.0" else f"{words} times as {how} as"


def share(ratio: float) -> str:
    """Return in words what it means to have `ratio` of another file's size: `a quarter of the size`."""
    if abs(ratio - 1) <= CLOSE / 2:
        return "the same size"
    if ratio > 1:
        return f"{ratio:.1f} times the size"
    value, words = min(SHARES, key=lambda known: abs(known[0] - ratio))
    return f"{words} the size" if abs(value - ratio) <= CLOSE * value else f"{ratio:.2f} of the size"


def sentence(ours: Figures, theirs: Figures, engine: str) -> str:
    """Say how `ours` compares with `theirs`: speed in an engine, size, accuracy.

    Args:
        engine: key of `ENGINES` that both have run in, if any.
    """
    parts = []
    if engine in ours.milliseconds and engine in theirs.milliseconds:
        ratio = ours.milliseconds[engine] / theirs.milliseconds[engine]
        parts.append(f"{speed(ratio)} {theirs.name} in {ENGINES[engine].title}")
    size = share(ours.bytes / theirs.bytes)
    parts.append(size if parts else f"{size}{' as' if size == 'the same size' else ' of'} {theirs.name}")
    if ours.scores and theirs.scores:
        parts.append(f"mAP50 {ours.scores.map50:.3f} against {theirs.scores.map50:.3f}")
    return f"{ours.name}: {', '.join(parts)}"


def alone(ours: Figures, engine: str, reason: str) -> str:
    """Say what there is to say of a model that is compared with nothing, and why it is not."""
    parts = [f"{ours.bytes / 1e6:.1f} MB"]
    if engine in ours.milliseconds:
        parts.append(f"{ours.milliseconds[engine]:.1f} ms in {ENGINES[engine].title}")
    if ours.scores:
        parts.append(f"mAP50 {ours.scores.map50:.3f}")
    return f"{ours.name}: {', '.join(parts)}; not compared with another model: {reason}"
