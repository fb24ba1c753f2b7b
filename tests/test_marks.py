"""The graph's quantizers are the modules', whichever of torch's exporters wrote it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from native_runs import images, quantized

from yolov5_sparse_plugin.engine.native import structure
from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer, quantizers_of
from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export import marks
from yolov5_sparse_plugin.export.graph import DEQUANTIZE, QUANTIZE
from yolov5_sparse_plugin.export.layers import module_of
from yolov5_sparse_plugin.export.run import by_tracing


def exported(model, file, dynamo=False):
    """Return the model's graph with its quantizers, from one of torch's exporters."""
    words = {"dynamo": True, "opset_version": 18} if dynamo else {"opset_version": 17}
    with marks.marked(model) as grids, torch.no_grad():
        by_tracing(torch.onnx.export)(model, (images(1, 1),), str(file), input_names=["images"], **words)
    proto = marks.with_quantizers(onnx.load(str(file)), grids)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def quantizers_in(proto):
    """Return the scale, zero point and axis of every QuantizeLinear, and check that a DequantizeLinear undoes it."""
    constants = {each.name: onnx.numpy_helper.to_array(each).tobytes() for each in proto.graph.initializer}
    ends = {
        n.input[0]: (constants[n.input[1]], constants[n.input[2]]) for n in proto.graph.node if n.op_type == DEQUANTIZE
    }
    found = set()
    for node in proto.graph.node:
        if node.op_type == QUANTIZE:
            found.add((constants[node.input[1]], constants[node.input[2]]))
            assert ends[node.output[0]] == (constants[node.input[1]], constants[node.input[2]])
    return found


def grids_of(model):
    dtypes = {(-128, 127): np.int8, (0, 255): np.uint8}
    return {
        (grid.scale.numpy().tobytes(), grid.zero_point.numpy().astype(dtypes[grid[2:]]).tobytes())
        for grid in structure.grids(model).values()
    }


def boxes(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(2, 1).numpy()})[0]


@pytest.fixture
def model():
    built = quantized("batch norm fused").eval().requires_grad_(False)
    built.model[-1].export = True
    return built


@pytest.fixture(params=[False, True], ids=["tracing", "dynamo"])
def dynamo(request):
    if request.param:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript, which SparseML excludes")
    return request.param


def test_both_exporters_write_the_modules_grids(model, dynamo, tmp_path):
    proto = exported(model, tmp_path / "model.onnx", dynamo)
    assert quantizers_in(proto) == grids_of(model)
    assert {opset.domain for opset in proto.opset_import} <= {"", "ai.onnx.ml", "com.microsoft"}
    convolutions = {module_of(node.name) for node in proto.graph.node if node.op_type == "Conv"}
    assert convolutions == {name for name, each in model.named_modules() if isinstance(each, torch.nn.Conv2d)}
    if dynamo:
        np.testing.assert_allclose(boxes(proto), boxes(exported(model, tmp_path / "traced.onnx")), atol=0.05, rtol=0.01)
    with torch.no_grad():
        torch_boxes = model(images(2, 1))[0].numpy()
    # a value on the border between two steps may fall either way
    close = np.isclose(boxes(proto), torch_boxes, atol=0.05, rtol=0.01)
    assert close.mean() > 0.98


def test_afterwards_the_model_is_as_before(model):
    before = model(images(1, 1))[0]
    with marks.marked(model):
        assert not torch.equal(model(images(1, 1))[0], before)
    assert torch.equal(model(images(1, 1))[0], before)


def test_what_has_seen_no_value_leaves_no_mark(model):
    first = quantizers_of(model)[0]
    first.forget()
    with marks.marked(model) as grids:
        assert len(grids) == len(structure.grids(model)) - 1


def test_another_width_is_refused_by_name(model):
    model.model[0].conv.input_quantizer = FakeQuantizer(-8, 7, True)
    model.model[0].conv.input_quantizer.observe(torch.ones(3))
    with pytest.raises(ExportError, match=r"model\.0\.conv\.input is rounded to -8\.\.7"), marks.marked(model):
        pass


@pytest.mark.parametrize("name", ["everything", "outputs", "asymmetric weights", "float weights"])
def test_other_forms_of_quantization_are_marked(name, tmp_path):
    built = quantized(name).eval().requires_grad_(False)
    built.model[-1].export = True
    assert quantizers_in(exported(built, tmp_path / "model.onnx")) == grids_of(built)
