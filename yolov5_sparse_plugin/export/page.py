"""The page about an export, which needs no other file."""

from __future__ import annotations

import base64
import html
import io
import shlex
from typing import Any

from PIL import Image

from yolov5_sparse_plugin.bench.engines import ENGINES

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2126 }
h1 { font-size: 1.5rem; line-height: 1.3 } h2 { font-size: 1.15rem; margin-top: 2rem }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th { text-align: left; font-weight: 600 }
td, th { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e3e7ea } .n { text-align: right }
small { color: #68727a }
.bar { display: inline-block; height: .7em; background: #2a78b5 }
"""
text = html.escape  # everything that is not our own words goes through it


def page(content: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return the report as HTML.

    Args:
        content: see `report.as_json`.
        pictures: name after the model's -> PNG.
    """
    model = text(content["model"])
    target = f" for {content['target']}" if content["target"] else ""
    made = f"{model}: {text(content['checkpoint'])} exported{target}, opset {content['opset']}"
    sections = [
        comparison(content),
        sizes(content),
        verified(content["verified"]) if content["verified"] else "",
        detections(pictures.get("detections.png")),
        layers(content["layers"], pictures["sparsity.png"]),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{model}</title><style>{STYLE}</style>
<h1>{text(content["summary"])}</h1>
<p>{made}, by {content["written_by"]}.</p>
{body}
</html>
"""


def table(head: list[str], rows: list[list[str]], numeric: set[int]) -> str:
    """Return an HTML table; cells are HTML already, columns of `numeric` stand right."""
    side = lambda i: ' class="n"' if i in numeric else ""  # noqa: E731
    lines = ["<table><tr>" + "".join(f"<th{side(i)}>{cell}</th>" for i, cell in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows]
    return "\n".join(lines) + "</table>"


def image(picture: bytes, description: str, kind: str = "png") -> str:
    return f'<img alt="{description}" src="data:image/{kind};base64,{base64.b64encode(picture).decode()}">'


def comparison(content: dict[str, Any]) -> str:
    """Return the table of speed, size and accuracy, beside the baseline's where there is one."""
    other = content["baseline"]
    rows = [speed(row) for row in content["latency"]]
    rows.append(figure("MB, as ONNX", content["bytes"], other and other["bytes"], lambda value: f"{value / 1e6:.2f}"))
    macs, theirs = content["macs"] or {}, (other and other["macs"]) or {}
    for name, key in (
        ("10⁹ multiply-accumulates an image", "all"),
        ("of them with a weight that is not zero", "nonzero"),
    ):
        rows.append(figure(name, macs.get(key), theirs.get(key), lambda value: f"{value / 1e9:.2f}"))
    scores, theirs = content["accuracy"] or {}, (other and other["accuracy"]) or {}
    for name, key in (("mAP50", "map50"), ("mAP50-95", "map50_95")):
        if scores or theirs:
            rows.append(figure(name, scores.get(key), theirs.get(key), lambda value: f"{value:.3f}", difference=True))
    heading = f"Compared with {text(other['name'])}" if other else "Speed, size and accuracy"
    head = ["", text(content["model"])] + ([text(other["name"]), "ratio, difference"] if other else [])
    shown = [row if other else row[:2] for row in rows]
    return f"<h2>{heading}</h2>\n{table(head, shown, {1, 2, 3})}\n{remarks(content)}"


def speed(row: dict[str, Any]) -> list[str]:
    """Return an engine's row: what it is, our time, the baseline's, the ratio; errors where there is no time."""
    name = text(f"{ENGINES[row['engine']].title} {row['version'] or ''}, ms")
    ours = text(row["error"]) if row["error"] else f"{row['milliseconds']:.1f}"
    theirs = text(row["baseline_error"] or "")
    if row["baseline_milliseconds"]:
        theirs = f"{row['baseline_milliseconds']:.1f}"
    return [name, ours, theirs, f"{row['ratio']:.2f}" if row["ratio"] else ""]


def figure(name: str, ours: float | None, theirs: float | None, form: Any, difference: bool = False) -> list[str]:
    """Return a row of the table: the figure of both, and how they differ."""
    cells = ["unknown" if value is None else form(value) for value in (ours, theirs)]
    if ours is None or not theirs:
        return [name, *cells, ""]
    return [name, *cells, f"{ours - theirs:+.3f}" if difference else f"{ours / theirs:.2f}"]


def remarks(content: dict[str, Any]) -> str:
    missing = [f"{engine.title} (<code>{engine.pip}</code>)" for engine in ENGINES.values() if not engine.installed()]
    turns = "; both models in turn" if content["baseline"] else ""
    said = [f"Speed: median time of a batch, on the machine that exported it{turns}."]
    scores = content["accuracy"]
    if scores:
        said.append(
            f"mAP: on {scores['images']} images of {text(scores['data'])}, {scores['labels']} boxes, as "
            "<code>yolov5 val</code> measures it."
        )
    said += [text(note) for note in content["notes"]]
    said += ["Not installed: " + ", ".join(missing) + "."] if missing else []
    again = f"<code>yolov5-sparse bench dense.onnx {text(shlex.quote(content['model']))}</code>"
    return f"<p><small>{'<br>'.join(said)}<br>To measure again: {again}</small></p>"


def sizes(content: dict[str, Any]) -> str:
    size, packed, full = content["bytes"], content["bytes_gzipped"], content["bytes_as_float32"]
    rows = [
        ["this file", f"{size / 1e6:.2f}", f"{size / full:.0%}"],
        ["gzipped", f"{packed / 1e6:.2f}", f"{packed / full:.0%}"],
        ["the same weights as float32", f"{full / 1e6:.2f}", "100%"],
    ]
    return "<h2>Size</h2>\n" + table(["", "MB", "of float32"], rows, {1, 2})


def verified(found: dict[str, Any]) -> str:
    """Return the table of what the graph computes beside the torch model that it was made from."""
    apart = lambda of: f"{of['mean']:.2g} on average, {of['most']:.2g} at most"  # noqa: E731
    rows = [
        ["images", f"{found['images']} {text(found['source'])}"],
        ["detections of torch, of the graph", f"{found['by_torch']}, {found['by_graph']}"],
        ["of both: same class, IoU of at least 0.5", f"{found['by_both']}"],
        ["coordinates of these, in pixels", apart(found["pixels"])],
        ["scores of these", apart(found["scores"])],
    ]
    rows += [["judged", found["verdict"]]] if found["verdict"] else []
    return "<h2>The graph beside the torch model</h2>\n" + table(["", ""], rows, set())


def detections(picture: bytes | None) -> str:
    if picture is None:
        return ""
    smaller = io.BytesIO()  # photos: the file beside the page is four times as large
    Image.open(io.BytesIO(picture)).convert("RGB").save(smaller, "JPEG", quality=88)
    described = image(smaller.getvalue(), "detections on some of the validation images", "jpeg")
    return f"<h2>What is detected</h2>\n{described}"


def layers(found: list[dict[str, Any]], picture: bytes) -> str:
    rows = [
        [
            text(layer["name"]),
            "×".join(map(str, layer["shape"])),
            layer["precision"],
            f"{layer['bytes'] / 1e3:.1f}",
            f"{layer['sparsity']:.1%}",
            f'<span class="bar" style="width:{layer["sparsity"] * 8:.2f}rem"></span>',
        ]
        for layer in found
    ]
    head = ["convolution", "weight", "precision", "kB", "zeros", ""]
    described = image(picture, "sparsity and size of each convolution")
    return f"<h2>Layers</h2>\n{described}\n{table(head, rows, {3, 4})}"
