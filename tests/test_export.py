"""`yolov5 export` of a sparse checkpoint: a graph that is right, that loads everywhere, and no file where it failed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from conftest import ALONE, call, command, export, small_file_system
from onnx import TensorProto, numpy_helper

from yolov5_sparse_plugin import cpu
from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.errors import CheckpointError, ExportError, OptionError, RecipeError, SparsePluginError
from yolov5_sparse_plugin.export.layers import macs, module_of, weights_of

WITHOUT = {"YOLOV5_SPARSE_AUTOLOAD": "0"}
FAST = {"sparse_report": "fast"}
# a hook that writes down how the graph compares with torch, for tests that need no report
FINDINGS = """
import json
from yolov5_sparse_plugin import hookimpl
@hookimpl
def sparse_export_done(export, file):
    file.with_suffix(".findings").write_text(json.dumps(export.findings.as_dict()))
"""


@pytest.fixture(scope="module", params=["onnxruntime", "openvino", "deepsparse"])
def each_target(request, finished, shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, export(finished.weights / "best.pt", folder, data=str(shapes), sparse_target=request.param)


def picture(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 256, (1, 3, 64, 64)) / 255).astype(np.float32)


def session(file) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def torch_model(weights):
    import yolov5.models.experimental as experimental

    return experimental.attempt_load(str(weights), device=torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------------ the graph


def test_the_command_says_what_it_made(exported):
    run, folder = exported
    assert "ONNX Runtime against torch on 8 images of" in run.output
    assert "sparsity kept in all 60 convolutions: 6" in run.output
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.export.json", "best.onnx", "best.pt", "best.report.html", "best.sparsity.png", "best_dense.pt",
    ]  # fmt: skip


def test_names_stride_and_io_are_upstreams(exported):
    model = onnx.load(exported[1] / "best.onnx")
    metadata = {p.key: p.value for p in model.metadata_props}
    assert ast.literal_eval(metadata["names"]) == {0: "disc", 1: "box", 2: "cross"} and metadata["stride"] == "32"
    assert [i.name for i in model.graph.input] == ["images"] and [o.name for o in model.graph.output] == ["output0"]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 252, 8]
    assert model.opset_import[0].version == 17


def test_the_default_graph_is_8_bits_through_and_through(exported):
    model = onnx.load(exported[1] / "best.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 60
    for node in convolutions:
        assert [makers[name].op_type for name in node.input] == ["DequantizeLinear"] * 3, node.name
        weight, bias = (constants[makers[name].input[0]] for name in node.input[1:])
        assert weight.dtype == np.int8 and bias.dtype == np.int32
        assert [reader.op_type for reader in readers[node.output[0]]] == ["QuantizeLinear"], node.name
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8, "signed activations are slow on x86"
    assert not [node for node in model.graph.node if node.op_type in ("BatchNormalization", "Identity")]
    assert len([n for n in model.graph.node if n.op_type == "QuantizeLinear"]) < 230


def test_pruned_weights_are_zero_in_the_file(exported, finished):
    layers = reading.read(finished.weights / "best.pt")["sparse"]["layers"]
    found = {
        module_of(name): float((array == 0).mean()) for name, array in weights_of(onnx.load(exported[1] / "best.onnx"))
    }
    for name, sparsity in layers.items():
        module = name.removesuffix(".weight")
        assert found.get(module, found.get(module + ".module")) >= sparsity - 1e-6, name


def test_every_targets_graph_is_right_in_onnx_runtime(each_target, finished):
    """Means, not maxima: rounding once more or less moves single boxes by pixels, a wrong scale moves all of them."""
    target, file = each_target
    model, onnx_session = torch_model(finished.weights / "best.pt"), session(file)
    for seed in range(3):
        image = picture(seed)
        with torch.no_grad():
            wanted = model(torch.from_numpy(image))[0].numpy()
        found = onnx_session.run(None, {"images": image})[0]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted)[..., :4].mean() < 0.6, "pixels"
        assert np.abs(found - wanted)[..., 4:].mean() < 0.01


def test_every_targets_graph_is_right_in_openvino(each_target):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    _, file = each_target
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(file), "CPU", config)
    image = picture()
    found, wanted = compiled([image])[0], session(file).run(None, {"images": image})[0]
    assert np.abs(found - wanted)[..., :4].mean() < 0.6 and np.abs(found - wanted)[..., 4:].mean() < 0.01


def test_every_targets_graph_is_right_in_opencv(each_target):
    import cv2

    target, file = each_target
    if target == "openvino" and cv2.__version__.startswith("5."):
        pytest.skip("OpenCV 5's MaxPool between quantizers takes 8-bit input only")
    network = cv2.dnn.readNetFromONNX(str(file))
    network.setInput(picture())
    found, expected = network.forward(), session(file).run(None, {"images": picture()})[0]
    assert found.shape == expected.shape
    assert np.abs(found[..., :4] - expected[..., :4]).mean() < 0.2  # pixels
    assert np.abs(found[..., 4:] - expected[..., 4:]).mean() < 0.01


def read_in_8_bits(model: onnx.ModelProto) -> set[str]:
    """Return the operators that read a DequantizeLinear."""
    made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.op_type for node in model.graph.node if made & set(node.input)}


def test_the_openvino_graph_leaves_activations_float(finished, tmp_path):
    model = onnx.load(export(finished.weights / "best.pt", tmp_path, sparse_target="openvino"))
    readers = {name: node for node in model.graph.node for name in node.input}
    makers = {output: node for node in model.graph.node for output in node.output}
    assert all(readers[n.output[0]].op_type != "QuantizeLinear" for n in model.graph.node if n.op_type == "Conv")
    for node in model.graph.node:
        if node.op_type in ("Sigmoid", "Concat", "MaxPool"):
            assert all(makers[name].op_type != "DequantizeLinear" for name in node.input if name in makers), node.name


@pytest.mark.parametrize("words", [pytest.param(["val"], id="val", marks=ALONE), pytest.param(["detect"], id="detect")])
def test_unmodified_yolov5_takes_the_default_graph(exported, shapes, tmp_path, words):
    common = ["--weights", exported[1] / "best.onnx", "--img", 64, "--device", "cpu", "--project", tmp_path / "out"]
    if words == ["val"]:
        run = call([command("yolov5"), "val", "--data", shapes, "--workers", 0, *common], tmp_path, **WITHOUT)
        assert "all         16" in run.output
    else:
        pictures = Path(shapes).parent / "images" / "val"
        call([command("yolov5"), "detect", "--source", pictures, *common], tmp_path, **WITHOUT)
        assert len(list((tmp_path / "out").rglob("*.jpg"))) == 16


def test_a_dynamic_graph_takes_other_sizes_and_batches(finished, tmp_path):
    file = export(finished.weights / "best.pt", tmp_path, dynamic=True)
    model, images = torch_model(finished.weights / "best.pt"), np.concatenate([picture(0), picture(1)])
    images = np.concatenate([images, images[:, :, :, ::-1]], axis=3)  # 2 of 64 x 128
    found = session(file).run(None, {"images": np.ascontiguousarray(images)})[0]
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.ascontiguousarray(images)))[0].numpy()
    assert found.shape == wanted.shape == (2, 504, 8)
    assert np.abs(found - wanted)[..., 4:].mean() < 0.01
    graph = onnx.load(file)
    assert macs(graph, (2, 3, 64, 128)) == tuple(2 * count for count in macs(graph, (1, 3, 64, 64)))


def test_the_opset_that_was_typed_is_the_opset(finished, tmp_path):
    model = onnx.load(export(finished.weights / "best.pt", tmp_path, opset=13))
    assert model.opset_import[0].version == 13


def test_uint8_input_is_the_same_model(finished, tmp_path, exported):
    file = export(finished.weights / "best.pt", tmp_path, sparse_uint8_input=True, sparse_target="openvino")
    other = export(finished.weights / "best.pt", tmp_path / "float", sparse_target="openvino")
    image = picture()
    bytes_ = np.round(image * 255).astype(np.uint8)
    found, wanted = session(file).run(None, {"images": bytes_})[0], session(other).run(None, {"images": image})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_pruned_checkpoint_exports_as_upstream_does_it(finished, tmp_path, said):
    """And is compared with nothing, which the report says."""
    stem = r"<b>&amp;$\frac$"  # markup, to the page and to the picture
    shutil.copyfile(finished.weights / "best_pruned.pt", tmp_path / f"{stem}.pt")
    (tmp_path / f"{stem}.detections.png").write_bytes(b"of an earlier export")
    file = export(tmp_path / f"{stem}.pt", tmp_path, **FAST)
    model = onnx.load(file)
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    assert sum((a == 0).sum() for _, a in weights_of(model)) / sum(a.size for _, a in weights_of(model)) > 0.59
    content = json.loads((tmp_path / f"{stem}.export.json").read_text())
    assert content["target"] is None and content["verified"]["all_pixels"]["most"] < 0.1
    assert content["baseline"] is None and "it is a float model; --sparse-baseline names" in content["summary"]
    assert said[-1].endswith(content["summary"])
    page = (tmp_path / f"{stem}.report.html").read_text()
    assert r"&lt;b&gt;&amp;amp;$\frac$.onnx" in page and "<b>" not in page
    assert "it is a float model; --sparse-baseline names" in page
    assert not (tmp_path / f"{stem}.detections.png").exists()


def test_other_formats_of_a_pruned_checkpoint_are_upstreams(finished, tmp_path):
    import yolov5.export

    shutil.copyfile(finished.weights / "best_pruned.pt", tmp_path / "best.pt")
    yolov5.export.run(weights=str(tmp_path / "best.pt"), include="torchscript", imgsz=64)
    assert torch.jit.load(tmp_path / "best.torchscript")(torch.zeros(1, 3, 64, 64))[0].shape == (1, 252, 8)


def test_a_plain_checkpoint_exports_without_reports(plain, tmp_path):
    export(plain.weights / "best.pt", tmp_path, imgsz=[64, 64])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.onnx", "best.pt"]


def test_sizes_are_upstreams_rounded_up_to_the_stride_and_may_differ_by_side(finished, shapes, tmp_path):
    file = export(finished.weights / "best.pt", tmp_path, imgsz="60x100", batch_size=2, data=str(shapes), **FAST)
    model = onnx.load(file)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 64, 128]
    content = json.loads((tmp_path / "best.export.json").read_text())
    assert content["verified"]["all_scores"]["mean"] < 0.01 and not any(row["error"] for row in content["latency"])


def test_python_m_yolov5_export_is_served(finished, tmp_path):
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    words = ["-m", "yolov5.export", "--weights", "best.pt", "--include", "onnx", "--imgsz", 64]
    call([command("python"), *words, "--sparse-target", "openvino", "--sparse-report", "none"], tmp_path)
    assert read_in_8_bits(onnx.load(tmp_path / "best.onnx")) == {"Conv"}, "the default has more"
    run = call([command("python"), *words, "--opset", 12], tmp_path, status=2)
    assert "yolov5-sparse: error: --opset 12" in run.output


def test_a_script_of_the_same_name_is_not_taken_for_the_command(finished, tmp_path):
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    (tmp_path / "export.py").write_text(
        "from yolov5.export import run\n"
        "try:\n    run(weights='best.pt', include='onnx', opset=12, imgsz=64)\n"
        "except Exception as error:\n    print('RAISED', type(error).__name__)\n"
    )
    assert "RAISED OptionError" in call([command("python"), "export.py"], tmp_path).output


def test_one_format_that_fails_ends_the_export(plain, tmp_path):
    """OpenVINO's needs a package that is not there; its intermediate ONNX file must not count for it."""
    shutil.copyfile(plain.weights / "best.pt", tmp_path / "best.pt")
    import yolov5.export

    with pytest.raises(ExportError, match="--include openvino: could not be written"):
        yolov5.export.run(weights=str(tmp_path / "best.pt"), include="onnx,openvino", imgsz=64)


def test_a_drop_in_hook_sees_the_export_of_a_plain_checkpoint(plain, tmp_path):
    (tmp_path / "spy.py").write_text(
        "from yolov5_sparse_plugin import hookimpl\n@hookimpl\ndef sparse_export_done(export, file):\n"
        "    file.with_name('seen').write_text(file.name)\n"
    )
    export(plain.weights / "best.pt", tmp_path, sparse_hooks=str(tmp_path / "spy.py"))
    assert (tmp_path / "seen").read_text() == "best.onnx"


# ------------------------------------------------------------------------------------------------- one-shot and samples


def test_one_shot_prunes_and_quantizes_without_training(finished, shapes, recipe, tmp_path):
    dense = finished.weights / "best_dense.pt"
    arguments = {"sparse_one_shot": str(recipe), "sparse_recipe_args": "final_sparsity=0.8", "data": str(shapes)}
    file = export(dense, tmp_path, **arguments)
    model = onnx.load(file)
    assert {a.dtype for _, a in weights_of(model)} == {np.dtype("int8")}
    total = sum(a.size for _, a in weights_of(model))
    assert sum((a == 0).sum() for _, a in weights_of(model)) / total == pytest.approx(0.8, abs=0.03)
    scales = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_s")]
    assert all(np.isfinite(s).all() and (s > 0).all() for s in scales)


def test_one_shot_is_close_to_the_float_model(finished, shapes, tmp_path):
    dense = finished.weights / "best_dense.pt"
    file = export(dense, tmp_path, sparse_one_shot="quantized", data=str(shapes))
    model, image = torch_model(dense), picture()
    with torch.no_grad():
        wanted = model(torch.from_numpy(image))[0].numpy()
    found = session(file).run(None, {"images": image})[0]
    assert np.abs(found - wanted)[..., 4:].mean() < 0.02 and np.abs(found - wanted)[..., :4].mean() < 1.5


def test_one_shot_takes_the_official_checkpoint_of_a_git_checkout(coco_weights, coco_images, tmp_path):
    """Its classes are `models.yolo.…`; exported as they are, the graph would have four outputs.

    The report's mAP is what `yolov5 val` measures of the same file.
    """
    from yolov5 import val

    labels = coco_images.parent.parent / "labels" / "val2017"
    for kind, place in (("images", coco_images), ("labels", labels)):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for file in sorted(place.iterdir())[:24]:
            shutil.copyfile(file, tmp_path / "set" / kind / file.name)
    names = yaml.safe_load(next(coco_images.parent.parent.glob("*.yaml")).read_text())["names"]
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump({"path": str(tmp_path / "set"), "train": "images", "val": "images", "names": names}))
    arguments = {"sparse_one_shot": "quantized", "data": str(data), "imgsz": 320, "sparse_report": "full"}
    file = export(coco_weights, tmp_path, **arguments)
    assert [o.name for o in onnx.load(file).graph.output] == ["output0"]
    content = json.loads((tmp_path / "yolov5n.export.json").read_text())
    verified, scores, baseline = content["verified"], content["accuracy"], content["baseline"]
    # without 8-bit instructions ONNX Runtime adds in 16 bits, which saturate
    share = 0.8 if cpu.detect().eight_bit else 0.6
    assert verified["by_torch"] > 10 and verified["by_both"] > share * verified["by_torch"]
    assert 0 < verified["pixels"]["mean"] < 3 and 0 < verified["scores"]["mean"] < 0.03
    settings = {"imgsz": 320, "device": "cpu", "workers": 0, "project": tmp_path / "val", "plots": False}
    theirs = val.run(str(data), str(file), **settings)[0]
    assert scores["map50"] == pytest.approx(theirs[2], abs=0.002) and scores["map50"] > 0.3
    assert scores["map50_95"] == pytest.approx(theirs[3], abs=0.002)
    assert baseline["name"] == "yolov5n.pt" and abs(baseline["accuracy"]["map50"] - scores["map50"]) < 0.1
    assert (tmp_path / "yolov5n.detections.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/jpeg;base64," in (tmp_path / "yolov5n.report.html").read_text()


def test_samples_are_what_the_graph_computes(finished, shapes, tmp_path, said):
    """Of a data set with broken files in it."""
    shutil.copytree(Path(shapes).parent, tmp_path / "set")
    for name, content in (("0000-empty.jpg", b""), ("9999-text.jpg", b"not an image")):
        for split in ("train", "val"):
            (tmp_path / "set" / "images" / split / name).write_bytes(content)
    (tmp_path / "sample-inputs").mkdir()
    (tmp_path / "sample-inputs" / "inp-0007.npz").write_bytes(b"of an earlier export")
    file = export(
        finished.weights / "best.pt",
        tmp_path,
        sparse_export_samples=3,
        data=str(tmp_path / "set" / "data.yaml"),
        sparse_data_path=str(tmp_path / "set"),
    )
    assert sum("2 of the images cannot be read and are left out, the first is" in line for line in said) == 2
    inputs = sorted((tmp_path / "sample-inputs").iterdir())
    assert [p.name for p in inputs] == ["inp-0000.npz", "inp-0001.npz", "inp-0002.npz"]
    for name in inputs:
        image = np.load(name)["images"]
        wanted = np.load(tmp_path / "sample-outputs" / name.name.replace("inp", "out"))["output0"]
        assert image.shape == (3, 64, 64) and image.min() >= 0 and image.max() <= 1
        np.testing.assert_allclose(session(file).run(None, {"images": image[None]})[0][0], wanted, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------ bad input


def refused(error: type[SparsePluginError], match: str, weights, folder: Path, **keywords) -> None:
    """The export ends in `error`, and the folder holds what it held before."""
    folder.mkdir(exist_ok=True)
    if Path(weights).exists():
        shutil.copyfile(weights, folder / Path(weights).name)
        weights = folder / Path(weights).name
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    import yolov5.export

    with pytest.raises(error, match=match):
        yolov5.export.run(**{"weights": str(weights), "include": "onnx", "imgsz": 64, **keywords})
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert not [p for p in folder.iterdir() if p.is_dir()]


def test_weights_that_are_missing_or_no_checkpoint(finished, exported, tmp_path):
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    refused(CheckpointError, r"there is no such file\. Did you mean 'best\.pt'", tmp_path / "bset.pt", tmp_path)
    refused(ExportError, "this is an exported model already", exported[1] / "best.onnx", tmp_path / "a")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    refused(CheckpointError, "not a checkpoint that torch can read", tmp_path / "text.pt", tmp_path / "b")


def test_another_size_than_that_of_training_is_said_where_none_is_typed(finished, tmp_path, monkeypatch):
    import yolov5.export

    from yolov5_sparse_plugin.export.run import ExportRun

    said = []
    monkeypatch.setattr(ExportRun, "warn", lambda self, message: said.append(message))
    for more in ({}, {"imgsz": 320}):
        with pytest.raises(OptionError, match="--half"):  # which ends it before anything is loaded
            yolov5.export.run(weights=str(finished.weights / "best.pt"), include="onnx", half=True, **more)
    assert len(said) == 1
    assert said[0].endswith("of 64 px, and is exported for 640: --imgsz 64 is the size that it knows")


@pytest.mark.parametrize(
    "error, match, keywords",
    [
        (OptionError, r"--opset 12: a scale for every channel needs opset 13\. Use 13 or newer", {"opset": 12}),
        (OptionError, "--half: a quantized model stores 8 bits already", {"half": True}),
        (OptionError, "no target 'onnxruntim'. Did you mean 'onnxruntime'", {"sparse_target": "onnxruntim"}),
        (OptionError, "no report 'fats'. Did you mean 'fast'", {"sparse_report": "fats"}),
        (OptionError, "--sparse-tarket: no such option. Did you mean '--sparse-target'", {"sparse_tarket": "openvino"}),
        (OptionError, "--sparse-recipe: an option of 'yolov5 train', not of", {"sparse_recipe": "quantized"}),
        (ExportError, "--include torchscript: .* is quantized", {"include": ["onnx", "torchscript"]}),
        (CheckpointError, "is quantized already", {"sparse_one_shot": "quantized"}),
        (OptionError, "--sparse-export-samples 2: name the images with --data", {"sparse_export_samples": 2}),
        (ExportError, "--data .*nowhere.yaml: there is no such file", {"data": "nowhere.yaml"}),
        (OptionError, "--sparse-recipe-args: .* Add --sparse-one-shot RECIPE", {"sparse_recipe_args": "a=1"}),
        (OptionError, "--imgsz big: expected one size in pixels", {"imgsz": "big"}),
        (OptionError, r"--data 640: not a file\. If you meant two sizes, write --imgsz 320,640", {"data": 640}),
        (OptionError, "--opset abc: expected a whole number", {"opset": "abc"}),
        (OptionError, "--include True: needs a format", {"include": True}),
    ],
)
def test_options_that_do_not_fit_a_quantized_checkpoint(finished, tmp_path, error, match, keywords):
    refused(error, match, finished.weights / "best.pt", tmp_path, **keywords)


def test_one_shot_needs_images_and_a_detection_model(finished, tmp_path, shapes):
    dense = finished.weights / "best_dense.pt"
    refused(
        OptionError, "quantization is calibrated on images. Add --data", dense, tmp_path, sparse_one_shot="quantized"
    )
    refused(RecipeError, "--sparse-one-shot quantised: no such file", dense, tmp_path, sparse_one_shot="quantised")
    import yolov5
    from yolov5.models.yolo import SegmentationModel

    cfg = Path(yolov5.__file__).parent / "models" / "segment" / "yolov5n-seg.yaml"
    torch.save({"model": SegmentationModel(str(cfg), ch=3, nc=3), "ema": None}, tmp_path / "seg.pt")
    refused(
        CheckpointError,
        "is a SegmentationModel; only detection models",
        tmp_path / "seg.pt",
        tmp_path / "seg",
        sparse_one_shot="quantized",
        data=str(shapes),
    )


def test_upstreams_own_default_opset_becomes_17_in_silence(exported):
    run, folder = exported
    assert onnx.load(folder / "best.onnx").opset_import[0].version == 17 and "opset" not in run.output


def test_the_command_ends_in_one_sentence_and_status_2(finished, tmp_path):
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    run = call([command("yolov5"), "export", "--weights", "best.pt", "--opset", 11], tmp_path, status=2)
    assert "yolov5-sparse: error: --opset 11" in run.output and "Traceback" not in run.output
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


def test_help_lists_the_sparse_options(tmp_path):
    run = call([command("yolov5"), "export", "--help"], tmp_path, PAGER="cat")
    flags = ("target", "one_shot", "recipe_args", "export_samples", "uint8_input", "baseline", "report")
    for flag in (*(f"sparse_{name}" for name in flags), "opset"):
        assert flag in run.output


def test_a_failure_leaves_no_half_written_file(finished, tmp_path, monkeypatch):
    from yolov5_sparse_plugin.export import verify

    def invalid(*args):
        raise ExportError("as intended")

    monkeypatch.setattr(verify, "verify", invalid)
    refused(ExportError, "as intended", finished.weights / "best.pt", tmp_path)


@pytest.mark.long
def test_what_a_killed_export_left_goes_with_the_next_one_but_not_what_a_living_one_owns(finished, tmp_path):
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")
    (tmp_path / "killer.py").write_text(
        "import os, signal\nfrom yolov5_sparse_plugin import hookimpl\n@hookimpl\n"
        "def sparse_export_graph(export, model):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = ["export", "--weights", "best.pt", "--include", "onnx", "--imgsz", 64, "--sparse-hooks", "killer.py"]
    assert call([command("yolov5"), *words], tmp_path, status=None).status == -signal.SIGKILL
    (left,) = tmp_path.glob(".best.onnx.*")
    assert list(left.glob("*.onnx"))
    code = """
import sys
from pathlib import Path
from yolov5_sparse_plugin.export.scratch import scratch_folder
with scratch_folder(Path("other.onnx")) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([command("python"), "-c", code], cwd=tmp_path, **pipes) as other:
        living = tmp_path / other.stdout.readline().strip()
        assert not left.exists() and living.is_dir()
        file = export(finished.weights / "best.pt", tmp_path)
        assert file.exists() and living.is_dir()
        other.stdin.close()
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 14 MB: the checkpoint fits, its export does not."""
    with small_file_system(tmp_path / "small", "14m") as folder:
        yield folder


def test_a_full_disk_is_said_and_leaves_nothing(finished, small_disk):
    weights = finished.weights / "best.pt"
    shutil.copyfile(weights, small_disk / "best.pt")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(b"\0" * (free - 1_000_000))
    before = sorted(p.name for p in small_disk.iterdir())
    import yolov5.export

    with pytest.raises(SparsePluginError, match="could not be written"):
        yolov5.export.run(weights=str(small_disk / "best.pt"), include="onnx", imgsz=64)
    assert sorted(p.name for p in small_disk.iterdir()) == before


def test_a_read_only_folder_is_said(finished, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    shutil.copyfile(finished.weights / "best.pt", folder / "best.pt")
    if subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], capture_output=True).returncode:
        pytest.skip("a folder that root cannot write to needs a mount")
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    try:
        import yolov5.export

        with pytest.raises(ExportError, match="could not be written .*Read-only"):
            yolov5.export.run(weights=str(folder / "best.pt"), include="onnx", imgsz=64)
        assert [p.name for p in folder.iterdir()] == ["best.pt"]
    finally:
        subprocess.run(["umount", folder], check=True)


def test_deepsparse_runs_its_target_and_its_own_tools_take_it(finished, shapes, tmp_path):
    """In a process of its own: the engine ends the process on a graph that it does not like."""
    pytest.importorskip("deepsparse", reason="DeepSparse is not installed: pip install deepsparse==1.8.0")
    file = export(finished.weights / "best.pt", tmp_path, data=str(shapes), sparse_target="deepsparse")
    np.save(tmp_path / "image.npy", picture())
    code = """
import sys, glob, numpy as np
import deepsparse
found = deepsparse.compile_model(sys.argv[1], batch_size=1, num_cores=1).run([np.load("image.npy")])[0]
np.save("found.npy", found)
pipeline = deepsparse.Pipeline.create(task="yolo", model_path=sys.argv[1], class_names=["a", "b", "c"], num_cores=1)
boxes = pipeline(images=sorted(glob.glob(sys.argv[2] + "/*.jpg"))[:2], conf_thres=0.001).boxes
print("PIPELINE", len(boxes))
"""
    pictures = Path(shapes).parent / "images" / "val"
    run = call([command("python"), "-c", code, file, pictures], tmp_path, NM_DISABLE_ANALYTICS="1")
    assert "PIPELINE 2" in run.output
    found, wanted = np.load(tmp_path / "found.npy"), session(file).run(None, {"images": picture()})[0]
    assert np.abs(found - wanted)[..., :4].mean() < 0.6 and np.abs(found - wanted)[..., 4:].mean() < 0.01
    words = ["deepsparse.benchmark", file, "--time", "1", "--warmup_time", "0", "--num_cores", "1"]
    run = call([command(words[0]), *words[1:]], tmp_path, NM_DISABLE_ANALYTICS="1")
    assert "Throughput (items/sec)" in run.output


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "deepsparse"])
def test_fused_training_with_one_scale_a_weight_exports_too(finished, shapes, tmp_path, target):
    """The structure of the predecessor's recipes: convolution and batch norm fused, a division between them."""
    (tmp_path / "findings.py").write_text(FINDINGS)
    recipe = Path(__file__).parent.parent / "benchmarks" / "recipes" / "pruned85_quantized_per_tensor.yaml"
    arguments = {"sparse_one_shot": str(recipe), "data": str(shapes), "sparse_hooks": str(tmp_path / "findings.py")}
    file = export(finished.weights / "best_dense.pt", tmp_path, sparse_target=target, **arguments)
    ops = [node.op_type for node in onnx.load(file).graph.node]
    assert "BatchNormalization" not in ops and ("ConvInteger" in ops) == (target == "deepsparse")
    found = json.loads(file.with_suffix(".findings").read_text())
    assert found["sparsity"] == pytest.approx(0.85, abs=0.03) and found["all_scores"]["mean"] < 0.01
