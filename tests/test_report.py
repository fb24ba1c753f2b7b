"""The report of an export says what it is and how it compares with what the user had, and touches nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import call, export

from yolov5_sparse_plugin.bench.measure import ENGINES
from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.errors import CheckpointError, OptionError
from yolov5_sparse_plugin.export import baseline, comparison, pictures
from yolov5_sparse_plugin.export.accuracy import Scores
from yolov5_sparse_plugin.export.comparison import Figures
from yolov5_sparse_plugin.export.detections import Detections
from yolov5_sparse_plugin.export.layers import macs, weights_of
from yolov5_sparse_plugin.export.verify import Apart, Findings

FAST = {"sparse_report": "fast"}


def report(file: Path) -> dict:
    """Read what the export of `file` says for programs."""
    return json.loads(file.with_name(f"{file.stem}.export.json").read_text())


def hashes(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------------------------------------------- what is in it


def test_it_has_sizes_layers_latency_and_what_was_verified(exported):
    file = exported[1] / "best.onnx"
    content = report(file)
    assert content["bytes"] == file.stat().st_size and content["bytes_gzipped"] < content["bytes"]
    assert len(content["layers"]) == 60 and {layer["precision"] for layer in content["layers"]} == {"int8"}
    assert content["target"] == "onnxruntime" and content["opset"] == 17
    assert content["verified"]["images"] == 8 and content["verified"]["all_scores"]["mean"] < 0.01
    text = (exported[1] / "best.report.html").read_text()
    assert "data:image/png;base64," in text and 'src="http' not in text and "model.9.cv2" in text
    assert (exported[1] / "best.sparsity.png").read_bytes().startswith(b"\x89PNG")


def test_it_compares_speed_size_and_accuracy_with_the_dense_model_beside_the_checkpoint(exported):
    content = report(exported[1] / "best.onnx")
    other = content["baseline"]
    assert other["name"] == "best_dense.pt" and content["not_compared"] is None
    rows = {row["engine"]: row for row in content["latency"]}
    assert list(rows) == [name for name, engine in ENGINES.items() if engine.installed()]
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["milliseconds"] / row["baseline_milliseconds"])
    assert 0.2 < content["bytes"] / other["bytes"] < 0.3
    assert (
        content["macs"]["all"] == other["macs"]["all"] and content["macs"]["nonzero"] < 0.6 * other["macs"]["nonzero"]
    )
    for scores in (content["accuracy"], other["accuracy"]):
        assert scores["images"] == 16 and scores["labels"] > 16 and 0 < scores["map50_95"] <= scores["map50"] < 1


def test_the_page_begins_and_the_command_ends_with_one_sentence(exported):
    run, folder = exported
    content = report(folder / "best.onnx")
    form = r"best\.onnx: \S.* as best_dense\.pt in ONNX Runtime, .* the size, mAP50 \d\.\d{3} against \d\.\d{3}"
    assert re.fullmatch(form, content["summary"]), content["summary"]
    assert run.output.splitlines()[-1].endswith(f"sparse: \x1b[0m{content['summary']}")
    heading = re.search(r"<h1>(.*)</h1>", (folder / "best.report.html").read_text())
    assert heading[1] == content["summary"]
    assert re.search(r"measuring the mAP of 2 models on 16 images: about \d+ s", run.output)


@pytest.mark.parametrize(
    "both, score, words",
    [
        (19, 0.01, ": few to judge by"),
        (96, 0.01, ": normal for 8 bits"),
        (90, 0.01, ": more apart than 8 bits usually are (95%, 2 px, 0.02): compare mAP before you deploy it"),
        (96, 0.03, ": more apart than 8 bits usually are (95%, 2 px, 0.02): compare mAP before you deploy it"),
    ],
)
def test_detections_of_graph_and_torch_are_judged(both, score, words):
    total, apart = (19 if both == 19 else 100), Apart(score, score)
    found = Findings(8, "images", True, total, total, both, apart, apart, apart, apart, 0.6)
    assert found.in_words().endswith(f"{total - both} by the graph alone{words}")


def test_an_interrupted_export_says_what_there_is(finished, tmp_path):
    """While it is being made, and once it is made and is being measured."""
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    for name, said in (("verify", "no file was written"), ("report", "best.onnx is complete, without its report")):
        code = f"""
import os, signal
from yolov5_sparse_plugin.export import report, verify
def interrupt(*_): os.kill(os.getpid(), signal.SIGINT)
{"verify.verify" if name == "verify" else "report.write"} = interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
from yolov5.cli import app
app()
"""
        words = ["export", "--weights", "best.pt", "--include", "onnx", "--imgsz", "64", "--sparse-report", "fast"]
        run = call([sys.executable, "-c", code, *words], tmp_path, status=130)
        assert f"interrupted; {said}" in run.output and "Traceback" not in run.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.onnx", "best.pt"]


def test_multiplications_are_those_of_torchs_convolutions(exported):
    counted = []

    def count(module, inputs, output):
        counted.append(module.weight.numel() * output.shape[2] * output.shape[3])

    model = reading.read(exported[1] / "best_dense.pt")["model"].float().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert report(exported[1] / "best.onnx")["macs"]["all"] == sum(counted)


@pytest.mark.parametrize(
    "ratio, words",
    [
        (0.42, "2.4 times as fast as"),
        (0.08, "12 times as fast as"),
        (0.97, "as fast as"),
        (1.2, "1.2 times as slow as"),
    ],
)
def test_speed_in_words(ratio, words):
    assert comparison.speed(ratio) == words


@pytest.mark.parametrize(
    "ratio, words",
    [
        (0.26, "a quarter of the size"),
        (0.27, "0.27 of the size"),
        (0.5, "half the size"),
        (0.33, "a third of the size"),
        (0.99, "the same size"),
        (1.31, "1.3 times the size"),
    ],
)
def test_size_in_words(ratio, words):
    assert comparison.share(ratio) == words


def test_the_sentence_says_what_there_is():
    ours = Figures("best.onnx", 25, milliseconds={"onnxruntime": 10.0}, scores=Scores(0.912, 0.5))
    theirs = Figures("best_dense.pt", 100, milliseconds={"onnxruntime": 24.0}, scores=Scores(0.901, 0.5))
    first = "best.onnx: 2.4 times as fast as best_dense.pt in ONNX Runtime, a quarter of the size"
    assert comparison.sentence(ours, theirs, "onnxruntime") == f"{first}, mAP50 0.912 against 0.901"
    theirs.scores = None
    assert comparison.sentence(ours, theirs, "openvino") == "best.onnx: a quarter of the size of best_dense.pt"
    alone = "best.onnx: 0.0 MB, 10.0 ms in ONNX Runtime, mAP50 0.912; not compared with another model: it is float"
    assert comparison.alone(ours, "onnxruntime", "it is float") == alone


def test_markup_in_the_names_of_classes_and_files_is_text_in_the_picture():
    found = Detections(torch.tensor([[2.0, 3, 20, 30]]), torch.tensor([0.9]), torch.tensor([0]))
    shown = pictures.Shown(r"$\frac$.jpg", np.zeros((40, 60, 3), np.uint8), [found, found])
    drawn = pictures.detections([shown, shown], [r"$\frac$.pt", "<b>.onnx"], [r"$\frac$ 猫"])
    assert drawn.startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------ what is compared


def test_without_a_dense_model_it_is_the_float_twin_timed_without_its_zeros(finished, tmp_path):
    """And so it is where best_dense.pt is of an early epoch, by the run's own figures."""
    trained = reading.read(finished.weights / "best.pt")
    trained["sparse"]["metrics"] = [0.9, 0.9, 0.9, 0.5]
    torch.save(trained, tmp_path / "best.pt")
    shutil.copyfile(finished.weights / "best_dense.pt", tmp_path / "best_dense.pt")
    file = export(tmp_path / "best.pt", tmp_path, **FAST)
    content = report(file)
    assert content["baseline"]["name"] == "its float twin" and content["accuracy"] is None
    assert "as its float twin in ONNX Runtime" in content["summary"] and "mAP" not in content["summary"]
    assert any("best_dense.pt is of epoch" in note and "too early" in note for note in content["notes"])
    assert content["baseline"]["macs"]["nonzero"] < 0.6 * content["baseline"]["macs"]["all"], "as it is"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.export.json", "best.onnx", "best.pt", "best.report.html", "best.sparsity.png", "best_dense.pt",
    ]  # fmt: skip


def test_a_filled_in_copy_has_no_zeros_and_the_same_shape(finished, tmp_path):
    file = export(finished.weights / "best_pruned.pt", tmp_path)
    copy = onnx.load(baseline.refilled(file))
    for (_, before), (_, after) in zip(weights_of(onnx.load(file)), weights_of(copy)):
        assert (after != 0).all() and np.array_equal(after[before != 0], before[before != 0])
    assert macs(copy, (1, 3, 64, 64)) == (macs(onnx.load(file), (1, 3, 64, 64))[0],) * 2


@pytest.fixture
def graph(exported, tmp_path):
    """An ONNX file of the same classes, in whose metadata stands code that YOLOv5 evaluates."""
    model = onnx.load(exported[1] / "best.onnx")
    code = f"{{0: 'disc', 1: 'box', 2: 'cross', 3: __import__('pathlib').Path({str(tmp_path / 'trace')!r}).touch()}}"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"names": code, "stride": "32"})
    (tmp_path / "mine").mkdir()
    onnx.save(model, tmp_path / "mine" / "best.onnx")
    return tmp_path / "mine" / "best.onnx"


def test_an_onnx_file_may_be_it_and_none_of_its_metadata_is_run(finished, shapes, graph, tmp_path):
    before = hashes(graph.parent)
    arguments = {"sparse_baseline": str(graph), "data": str(shapes), "sparse_report": "full"}
    content = report(export(finished.weights / "best.pt", tmp_path / "out", **arguments))
    assert content["baseline"]["name"] == "mine/best.onnx" and content["baseline"]["bytes"] == graph.stat().st_size
    assert content["baseline"]["accuracy"]["map50"] == pytest.approx(content["accuracy"]["map50"], abs=1e-6)
    assert not (tmp_path / "trace").exists() and hashes(graph.parent) == before


def test_one_that_cannot_be_exported_ends_nothing_and_is_said(finished, tmp_path, said):
    broken = reading.read(finished.weights / "best_dense.pt")
    broken["model"].model[1].conv = torch.nn.Conv2d(3, 4, 1).half()  # its input has other channels
    torch.save(broken, tmp_path / "broken.pt")
    file = export(finished.weights / "best.pt", tmp_path / "out", sparse_baseline=str(tmp_path / "broken.pt"), **FAST)
    onnx.checker.check_model(str(file))
    content = report(file)
    assert content["baseline"] is None and content["not_compared"].startswith("broken.pt cannot be exported (")
    assert content["latency"][0]["milliseconds"] and content["not_compared"] in content["summary"]
    assert said[-1].endswith(content["summary"])
    assert sorted(p.suffix for p in file.parent.iterdir()) == [".html", ".json", ".onnx", ".png", ".pt"]


def test_one_of_other_classes_is_refused(finished, tmp_path):
    other = reading.read(finished.weights / "best_dense.pt")
    other["model"].names = {0: "disc", 1: "BOX ", 2: "star"}
    torch.save(other, tmp_path / "other.pt")
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    before = hashes(tmp_path)
    message = (
        "--sparse-baseline .*other.pt: its class 2 is 'star', that of best.pt 'cross'. Name a model that was trained"
    )
    with pytest.raises(OptionError, match=message):
        export(tmp_path / "best.pt", tmp_path, sparse_baseline=str(tmp_path / "other.pt"), **FAST)
    assert hashes(tmp_path) == before


def test_what_cannot_be_it_is_refused_before_anything_is_written(finished, graph, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copyfile(finished.weights / "best.pt", folder / "best.pt")
    shutil.copyfile(graph, folder / "best.onnx")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "text.onnx").write_text("no model")
    before = hashes(tmp_path)
    for named, error, message, more in (
        ("nowhere.pt", OptionError, "--sparse-baseline .*nowhere.pt: there is no such file. Name a checkpoint", {}),
        ("out", OptionError, "this is a folder", {}),
        ("text.pt", CheckpointError, "text.pt: not a checkpoint that torch can read", {}),
        ("text.onnx", OptionError, "--sparse-baseline .*text.onnx: this is not an ONNX file", {}),
        ("out/best.onnx", OptionError, "this is the file that the export replaces. Copy it", {}),
        (
            "mine/best.onnx",
            OptionError,
            "it takes images of 1 x 3 x 64 x 64, this export is for 1 x 3 x 96",
            {"imgsz": 96},
        ),
    ):
        with pytest.raises(error, match=message):
            export(folder / "best.pt", folder, **{"sparse_baseline": str(tmp_path / named), **FAST, **more})
    assert hashes(tmp_path) == before and not (tmp_path / "trace").exists()


def test_none_writes_the_model_alone(finished, tmp_path):
    """What was said of an earlier model goes with it."""
    for kind in ("export.json", "report.html", "sparsity.png", "detections.png"):
        (tmp_path / f"best.{kind}").write_text("of an earlier one")
    export(finished.weights / "best.pt", tmp_path, sparse_report="none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.onnx", "best.pt"]
