"""Say what an export is: sparsity, bytes and precision by layer, size, latency. As JSON, a page and a picture."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from yolov5_sparse_plugin import __version__
from yolov5_sparse_plugin.bench.measure import ENGINES, Row
from yolov5_sparse_plugin.export import verify

if TYPE_CHECKING:
    from yolov5_sparse_plugin.export.run import ExportRun

ROUNDS, WARMUP = 5, 1
COLOURS = {"int8": "#2a78b5", "float16": "#7fb3a6", "float32": "#b8bec4"}
WIDTHS = {"int8": 1, "float16": 2, "float32": 4}  # bytes


@dataclass(frozen=True)
class Layer:
    """A convolution as it is stored: `shape` of its weight, `sparsity` 0..1, `bytes` of the weight, `precision`."""

    name: str
    shape: tuple[int, ...]
    sparsity: float
    bytes: int
    precision: str

    @property
    def parameters(self) -> int:
        return self.bytes // WIDTHS[self.precision]


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Return the convolutions of a model, in its order."""
    found = []
    for name, array in verify.weights_of(model):
        precision = array.dtype.name if array.dtype.kind == "f" else "int8"
        short = verify.module_of(name).removesuffix(".module").removesuffix(".conv")
        found.append(
            Layer(
                short,
                array.shape,
                float((array == 0).mean()),
                array.size * WIDTHS[precision],
                precision,
            )
        )
    return found


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
    names["report.html"].write_text(page(content, layers, picture))
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


def draw(layers: list[Layer], title: str) -> bytes:
    """Return the picture, a PNG: sparsity and stored bytes of every convolution, coloured by precision."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = range(len(layers))
    colours = [COLOURS[layer.precision] for layer in layers]
    upper.bar(places, [100 * layer.sparsity for layer in layers], color=colours, width=0.8)
    upper.set_ylim(0, 100)
    upper.set_ylabel("weights that are zero, %")
    lower.bar(places, [layer.bytes / 1e3 for layer in layers], color=colours, width=0.8)
    lower.set_ylabel("weights as stored, kB")
    lower.set_xticks(list(places), [layer.name for layer in layers], rotation=90, fontsize=7, parse_math=False)
    lower.set_xlim(-0.8, len(layers) - 0.2)
    for axes in (upper, lower):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    present = [name for name in COLOURS if any(layer.precision == name for layer in layers)]
    upper.legend(handles=[Patch(color=COLOURS[name], label=name) for name in present], loc="upper left", ncols=2)
    total = sum(layer.bytes for layer in layers)
    parameters = sum(layer.parameters for layer in layers)
    zeros = sum(layer.sparsity * layer.parameters for layer in layers)
    figure.suptitle(
        f"{title}: {parameters / 1e6:.2f} million weights in {len(layers)} convolutions, "
        f"{zeros / max(parameters, 1):.1%} zero, {total / 1e6:.1f} MB",
        fontsize=12,
        parse_math=False,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2126 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } img { width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th { text-align: left; font-weight: 600 }
td, th { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e3e7ea } .n { text-align: right }
small { color: #68727a }
.bar { display: inline-block; height: .7em; background: #2a78b5 }
"""


def table(head: list[str], rows: list[list[str]], numeric: set[int]) -> str:
    """Return an HTML table; cells are HTML already, columns of `numeric` stand right."""
    side = lambda i: ' class="n"' if i in numeric else ""  # noqa: E731
    lines = ["<table><tr>" + "".join(f"<th{side(i)}>{cell}</th>" for i, cell in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows]
    return "\n".join(lines) + "</table>"


def page(content: dict[str, Any], layers: list[Layer], picture: bytes) -> str:
    """Return the report: one HTML page that needs no other file."""
    source = base64.b64encode(picture).decode()
    found, size, packed = content["verified"], content["bytes"], content["bytes_gzipped"]
    sizes = [
        ["this file", f"{size / 1e6:.2f}", f"{size / content['bytes_as_float32']:.0%}"],
        ["gzipped", f"{packed / 1e6:.2f}", f"{packed / content['bytes_as_float32']:.0%}"],
        ["the same weights as float32", f"{content['bytes_as_float32'] / 1e6:.2f}", "100%"],
    ]
    speeds = [
        [
            html.escape(f"{row['engine']} {row['version']}"),
            html.escape(row["error"]) if row["error"] else f"{row['milliseconds']:.1f}",
            "" if row["error"] else f"{row['images_per_second']:.0f}",
        ]
        for row in content["latency"]
    ]
    missing = [f"{name} (<code>{e.pip}</code>)" for name, e in ENGINES.items() if not e.installed()]
    verified = ""
    if found:
        matched = "none found" if found["matched"] is None else f"{found['matched']:.1%} of {found['detections']}"
        rows = [
            ["images", f"{found['images']} {html.escape(found['source'])}"],
            ["detections matched at IoU 0.9, same class", matched],
            ["box coordinates, pixels", f"{found['box_mean']:.3f} on average, {found['box_max']:.2f} at most"],
            ["scores", f"{found['confidence_mean']:.5f} on average, {found['confidence_max']:.3f} at most"],
        ]
        verified = "<h2>Compared with the torch model</h2>" + table(["", "difference"], rows, set())
    rows = [
        [
            html.escape(layer.name),
            "×".join(map(str, layer.shape)),
            layer.precision,
            f"{layer.bytes / 1e3:.1f}",
            f"{layer.sparsity:.1%}",
            f'<span class="bar" style="width:{layer.sparsity * 8:.2f}rem"></span>',
        ]
        for layer in layers
    ]
    target = f"for {content['target']}, " if content["target"] else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(content["model"])}</title><style>{STYLE}</style>
<h1>{html.escape(content["model"])}</h1>
<p>Exported from {html.escape(content["checkpoint"])} {target}opset {content["opset"]}, by {content["written_by"]}.</p>
<h2>Size</h2>
{table(["", "MB", "of float32"], sizes, {1, 2})}
<h2>Latency</h2>
{table(["engine", "ms", "images/s"], speeds, {1, 2}) if speeds else ""}
<p><small>Median of {ROUNDS} runs on the machine that exported it, one batch at a time. To compare models:
<code>yolov5-sparse bench dense.onnx {html.escape(content["model"])}</code>.
{"Not installed: " + ", ".join(missing) + "." if missing else ""}</small></p>
{verified}
<h2>Layers</h2>
<img alt="sparsity and size of each convolution" src="data:image/png;base64,{source}">
{table(["convolution", "weight", "precision", "kB", "zeros", ""], rows, {3, 4})}
</html>
"""
