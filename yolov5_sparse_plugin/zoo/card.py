"""A model's card: `model.md`, for people, with front matter for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolov5_sparse_plugin import __version__
from yolov5_sparse_plugin.stubs import PREFIX, Stub
from yolov5_sparse_plugin.zoo import layout

# the names that the vendor's client looks for in a card's front matter
FIELDS = ("domain", "sub_domain", "architecture", "framework", "repo", "dataset", "sparse_tag")
MEASURES = ("precision", "recall", "mAP50", "mAP50-95")


def model_card(stub: Stub, folder: Path, part: dict[str, Any] | None, classes: list[str]) -> str:
    """Return the card of a model whose files are in `folder`.

    Args:
        part: the checkpoint's sparse part, None for one of plain YOLOv5.
        classes: names of what it detects.
    """
    front: dict[str, Any] = dict(zip(FIELDS, stub.path.split("/")))
    front["made_with"] = f"yolov5-sparse-plugin {__version__}"
    front["phase"] = part["phase"] if part else "dense"
    rows = [("phase", front["phase"])]
    if part:
        front["sparsity"] = round(float(part["sparsity"]), 4)
        rows.append(("zeros among the prunable weights", f"{part['sparsity']:.1%}"))
        if part["metrics"]:
            front["map50"] = round(float(part["metrics"][2]), 4)
            rows += [(f"{name}, validated while it was trained", f"{value:.3f}") for name, value in _measured(part)]
    shown = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    rows.append((f"{len(classes)} classes", shown))
    found = layout.contents(folder)
    for name in (layout.MODEL, layout.CHECKPOINT, layout.ONNX):
        if name in found:
            rows.append((f"`{name}`", f"{found[name].stat().st_size / 1e6:.1f} MB"))
    table = "\n".join(f"| {name} | {str(value).replace('|', ' ')} |" for name, value in rows)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n# {stub.short}\n\n| | |\n|---|---|\n{table}\n\n{_usage(stub, set(found))}"


def _measured(part: dict[str, Any]) -> list[tuple[str, float]]:
    return list(zip(MEASURES, part["metrics"]))


def _usage(stub: Stub, found: set[str]) -> str:
    address = PREFIX + stub.path
    lines = [f"yolov5 val --data data.yaml --weights {address}", f"yolov5 detect --source images --weights {address}"]
    start = f"yolov5 train --data data.yaml --weights '{address}?recipe_type=transfer'"
    if layout.TRANSFER in found:
        lines += [start + " \\", f"    --sparse-recipe '{address}?recipe_type=transfer'"]
    else:
        lines.append(start)
    lines.append(f"yolov5-sparse zoo get {address}")
    return "## Use it\n\nWith `--sparse-zoo DIR`, or `YOLOV5_SPARSE_ZOO` set to the zoo's folder:\n\n" + "".join(
        f"    {line}\n" for line in lines
    )
