"""Say what an export is: sparsity, bytes and precision by layer, size, latency. As JSON, a page and a picture."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_sparse_plugin import __version__
from yolov5_sparse_plugin.bench.measure import ENGINES, Row
from yolov5_sparse_plugin.export.layers import layers_of
from yolov5_sparse_plugin.export.page import page
from yolov5_sparse_plugin.export.pictures import draw

if TYPE_CHECKING:
    from yolov5_sparse_plugin.export.run import ExportRun

ROUNDS, WARMUP = 5, 1


def write(export: ExportRun, file: Path) -> None:
    """Write `<model>.export.json`, `<model>.report.html` and `<model>.sparsity.png` beside the model."""
    export.engines.load([file], batch=int(export.arguments["batch_size"]))
    model, raw = export.exported, file.read_bytes()
    layers = layers_of(model)
    with ThreadPoolExecutor(1) as beside:
        gzipped = beside.submit(gzip.compress, raw, 6)
        picture = draw(layers, file.name)
    content: dict[str, Any] = {
        "model": file.name,
        "checkpoint": export.weights.name,
        "written_by": f"yolov5-sparse-plugin {__version__}",
        "target": export.target if export.quantized else None,
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "bytes": len(raw),
        "bytes_gzipped": len(gzipped.result()),
        "bytes_of_weights": sum(layer.bytes for layer in layers),
        "bytes_as_float32": len(raw) + sum(layer.parameters * 4 - layer.bytes for layer in layers),
        "sparsity": export.findings.sparsity if export.findings else None,
        "verified": export.findings.as_dict() if export.findings else None,
        "layers": [asdict(layer) for layer in layers],
        "latency": [as_dict(row) for row in export.engines.time(ROUNDS, WARMUP)],
    }
    names = {kind: file.with_name(f"{file.stem}.{kind}") for kind in ("export.json", "report.html", "sparsity.png")}
    names["export.json"].write_text(json.dumps(content, indent=1) + "\n")
    names["sparsity.png"].write_bytes(picture)
    names["report.html"].write_text(page(content, layers, picture, ROUNDS))
    for row in content["latency"]:
        speed = row["error"] or f"{row['milliseconds']:.1f} ms, {row['images_per_second']:.0f} images/s"
        export.say(f"{row['engine']} {row['version']}: {speed}")
    size = f"{len(raw) / 1e6:.1f} MB, {content['bytes_gzipped'] / 1e6:.1f} MB gzipped"
    export.say(f"{size}; about this model: {names['report.html']}")


def as_dict(row: Row) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "version": ENGINES[row.engine].version(),
        "milliseconds": row.milliseconds,
        "images_per_second": row.images_per_second,
        "error": row.error,
    }
