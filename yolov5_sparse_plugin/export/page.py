"""The page about an export, which needs no other file."""

from __future__ import annotations

import base64
import html
from typing import Any

from yolov5_sparse_plugin.bench.measure import ENGINES
from yolov5_sparse_plugin.export.layers import Layer

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


def page(content: dict[str, Any], layers: list[Layer], picture: bytes, rounds: int) -> str:
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
        apart = lambda of: f"{of['mean']:.2g} on average, {of['most']:.2g} at most"  # noqa: E731
        rows = [
            ["images", f"{found['images']} {html.escape(found['source'])}"],
            ["detections of torch, of the graph", f"{found['by_torch']}, {found['by_graph']}"],
            ["of both: same class, IoU of at least 0.5", f"{found['by_both']}"],
            ["coordinates of these, in pixels", apart(found["pixels"])],
            ["scores of these", apart(found["scores"])],
        ]
        verified = "<h2>The graph beside the torch model</h2>" + table(["", ""], rows, set())
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
<p><small>Median of {rounds} runs on the machine that exported it, one batch at a time. To compare models:
<code>yolov5-sparse bench dense.onnx {html.escape(content["model"])}</code>.
{"Not installed: " + ", ".join(missing) + "." if missing else ""}</small></p>
{verified}
<h2>Layers</h2>
<img alt="sparsity and size of each convolution" src="data:image/png;base64,{source}">
{table(["convolution", "weight", "precision", "kB", "zeros", ""], rows, {3, 4})}
</html>
"""
