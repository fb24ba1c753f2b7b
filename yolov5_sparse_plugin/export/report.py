"""Say what an export is, and how it compares with what the user had. As JSON, as a page and as pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_sparse_plugin import __version__, atomic
from yolov5_sparse_plugin.bench.measure import ENGINES, Processes
from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export import baseline, comparison
from yolov5_sparse_plugin.export.comparison import Figures
from yolov5_sparse_plugin.export.measurements import Measured, Prepared, measured
from yolov5_sparse_plugin.export.page import page
from yolov5_sparse_plugin.export.scratch import scratch_folder

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Export

KINDS = ("export.json", "report.html", "sparsity.png", "detections.png")


def wanted(export: Export) -> bool:
    return export.options.report != "none" and "onnx" in export.arguments["include"]


def beside(file: Path) -> dict[str, Path]:
    """Return where what is said of the model `file` stands, by kind."""
    return {kind: file.with_name(f"{file.stem}.{kind}") for kind in KINDS}


def forget(file: Path) -> None:
    """Remove what was said of an earlier model at `file`."""
    for path in beside(file).values():
        path.unlink(missing_ok=True)


def prepare(export: Export) -> Prepared:
    """Choose the baseline, or refuse it, and let the engines get ready while the graph is being made."""
    choice = baseline.choose(export)
    installed = [name for name, engine in ENGINES.items() if engine.installed()]
    return Prepared(choice, export.lasting(Processes(installed, 2 if choice else 1)))


def write(export: Export, prepared: Prepared, file: Path) -> None:
    """Write `<model>.export.json`, `.report.html`, `.sparsity.png` and `.detections.png` beside the model."""
    names = beside(file)
    try:
        with scratch_folder(file) as folder:
            found = measured(export, prepared, file, folder)
            content = as_json(export, found)
            text = json.dumps(content, indent=1) + "\n"
            written = {
                "export.json": text.encode(),
                "report.html": page(content, found.pictures).encode(),
                **found.pictures,
            }
            for kind, data in written.items():
                with atomic.replacing(names[kind]) as stream:  # a link there is replaced, not followed
                    stream.write(data)
    except ExportError as error:
        export.say(f"the model is in place, but not its report: {error}", warn=True)
        return
    for line in lines(content):
        export.say(line)
    export.say(f"about this model: {names['report.html']}")
    export.say(content["summary"])


def as_json(export: Export, found: Measured) -> dict[str, Any]:
    """Return all that is known of an export, for programs; the page says the same."""
    model, ours, theirs = export.graph, found.ours, found.theirs
    return {
        "summary": summary(export, found),
        "model": ours.name,
        "checkpoint": export.weights.name,
        "written_by": f"yolov5-sparse-plugin {__version__}",
        "target": export.target if export.quantized else None,
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "bytes": ours.bytes,
        "bytes_gzipped": found.gzipped,
        "bytes_of_weights": sum(layer.bytes for layer in found.layers),
        "bytes_as_float32": ours.bytes + sum(layer.parameters * 4 - layer.bytes for layer in found.layers),
        "sparsity": export.findings.sparsity,
        "macs": macs_of(ours),
        "latency": latency(found),
        "accuracy": accuracy(found, ours, str(export.arguments["data"])),
        "baseline": theirs
        and {
            "name": theirs.name,
            "bytes": theirs.bytes,
            "macs": macs_of(theirs),
            "accuracy": accuracy(found, theirs, str(export.arguments["data"])),
        },
        "not_compared": found.missing,
        "notes": found.notes,
        "verified": export.findings.as_dict(),
        "layers": [asdict(layer) for layer in found.layers],
    }


def summary(export: Export, found: Measured) -> str:
    """Return the one sentence; its engine is the one that the export is for, else ONNX Runtime."""
    engine = export.target if export.quantized else "onnxruntime"
    shared = set(found.ours.milliseconds) & set((found.theirs or found.ours).milliseconds)
    engine = engine if engine in shared else "onnxruntime"
    if found.theirs is None:
        assert found.missing is not None, "why there is no baseline is known then"
        return comparison.alone(found.ours, engine, found.missing)
    return comparison.sentence(found.ours, found.theirs, engine)


def macs_of(figures: Figures) -> dict[str, int] | None:
    """Return multiply-accumulates for one image: all, and those whose weight is not zero."""
    return figures.macs and dict(zip(("all", "nonzero"), figures.macs))


def accuracy(found: Measured, figures: Figures, data: str) -> dict[str, Any] | None:
    if not found.accuracy or not figures.scores:
        return None
    how = {"data": data, "images": found.accuracy.images, "labels": found.accuracy.labels}
    return {**asdict(figures.scores), **how, "left_out": [str(path) for path in found.accuracy.left_out]}


def latency(found: Measured) -> list[dict[str, Any]]:
    """Return a dict for each engine, with the times of a batch, and why there is none where an engine failed."""
    rows = {(row.engine, row.model == found.file): row for row in found.rows}
    listed = []
    for engine in dict.fromkeys(row.engine for row in found.rows):
        ours, theirs = rows[engine, True], rows.get((engine, False))
        listed.append(
            {
                "engine": engine,
                "version": ENGINES[engine].version(),
                "milliseconds": ours.milliseconds,
                "images_per_second": ours.images_per_second,
                "error": ours.error,
                "baseline_milliseconds": theirs and theirs.milliseconds,
                "baseline_error": theirs and theirs.error,
                "ratio": ours.ratio if theirs else None,
            }
        )
    return listed


def lines(content: dict[str, Any]) -> list[str]:
    """Return what stands on the console before the summary."""
    other = content["baseline"]
    found = []
    for row in content["latency"]:
        words = row["error"] or f"{row['milliseconds']:.1f} ms, {row['images_per_second']:.0f} images/s"
        if other:
            theirs = row["baseline_error"] or f"{row['baseline_milliseconds']:.1f} ms"
            words += f"; {other['name']}: {theirs}"
        found.append(f"{ENGINES[row['engine']].title} {row['version']}: {words}")
    size = f"{content['bytes'] / 1e6:.1f} MB, {content['bytes_gzipped'] / 1e6:.1f} MB gzipped"
    found.append(size + (f"; {other['name']} as ONNX: {other['bytes'] / 1e6:.1f} MB" if other else ""))
    scores = content["accuracy"]
    if scores:
        words = f"mAP50 {scores['map50']:.3f}, mAP50-95 {scores['map50_95']:.3f} on {scores['images']} images"
        if other and other["accuracy"]:
            words += f"; {other['name']}: {other['accuracy']['map50']:.3f}, {other['accuracy']['map50_95']:.3f}"
        found.append(words)
    return found + content["notes"]
