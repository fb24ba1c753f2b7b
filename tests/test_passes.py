"""Each pass computes the same numbers after as before, in ONNX Runtime, and leaves what it promises."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.export import fixup, passes
from yolov5_sparse_plugin.export.graph import DEQUANTIZE, QUANTIZE, Graph, Grid, producer
from yolov5_sparse_plugin.export.passes.complete_grids import ACTIVATIONS, CompleteGrids, input_grid
from yolov5_sparse_plugin.export.passes.convolve_integers import ConvolveIntegers
from yolov5_sparse_plugin.export.passes.fold_batchnorm import FoldBatchNorm
from yolov5_sparse_plugin.export.passes.fold_constants import FoldConstants
from yolov5_sparse_plugin.export.passes.lift_quantizers import LiftQuantizers
from yolov5_sparse_plugin.export.passes.place_quantizers import PlaceQuantizers
from yolov5_sparse_plugin.export.passes.quantize_bias import QuantizeBias
from yolov5_sparse_plugin.export.passes.quantize_heads import QuantizeHeads
from yolov5_sparse_plugin.export.passes.quantize_weights import QuantizeWeights
from yolov5_sparse_plugin.export.passes.saturate_relu import SaturateRelu
from yolov5_sparse_plugin.export.passes.shorten_names import ShortenNames
from yolov5_sparse_plugin.export.passes.shrink_constants import ShrinkConstants
from yolov5_sparse_plugin.export.passes.stem_to_depth import StemToDepth
from yolov5_sparse_plugin.export.passes.transpose_rows import TransposeRows
from yolov5_sparse_plugin.export.passes.uint8_input import Uint8Input
from yolov5_sparse_plugin.export.targets import AT_CONVOLUTIONS, EVERYWHERE, TARGETS

RANDOM = np.random.default_rng(0)


def model(body: str, **constants) -> onnx.ModelProto:
    """Parse a graph from `images` to `y` in ONNX's own text form; `constants` are its initializers."""
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 16, 16] images) => (float[N, C, H, W] y) {{ {body} }}'
    )
    parsed = onnx.parser.parse_model(text)
    for name, value in constants.items():
        parsed.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(parsed)


def outputs(proto: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": image})[0]


def image(channels: int = 3, size: int = 16) -> np.ndarray:
    return (RANDOM.integers(0, 256, (1, channels, size, size)) / 255).astype(np.float32)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def after(before: onnx.ModelProto, *steps) -> tuple[onnx.ModelProto, Graph]:
    graph = Graph.read(before)
    for step in steps:
        assert step.check(graph) is None
        assert step.apply(graph) > 0, step.name
    return graph.write(), graph


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_fold_constants_keeps_quantizers_and_what_is_small_unfolded():
    before = model(
        "a = Identity(b) c = Mul(a, b) d = Expand(b, shape) e = Add(images, c) y = Mul(e, d)",
        b=np.float32(3).reshape(1, 1, 1, 1),
        shape=np.array([1, 3, 16, 16]),
    )
    proto, _ = after(before, FoldConstants())
    assert sorted(ops(proto)) == ["Add", "Expand", "Mul"]
    given = image()
    assert np.array_equal(outputs(before, given), outputs(proto, given))


def quantized_conv(**changes) -> onnx.ModelProto:
    """A convolution as quantization-aware training exports it: int8 quantizers at input and weight."""
    weight = floats(4, 3, 3, 3)
    weight[1] = 0
    constants = dict(
        xs=np.float32(1 / 255),
        xz=np.int8(-128),
        w=weight,
        ws=(np.abs(weight).reshape(4, -1).max(1) / 127 + 1e-7).astype(np.float32),
        wz=np.zeros(4, np.int8),
        bias=floats(4),
    )
    body = (
        "q = QuantizeLinear(images, xs, xz) x = DequantizeLinear(q, xs, xz) "
        "p = QuantizeLinear<axis = 0>(w, ws, wz) v = DequantizeLinear<axis = 0>(p, ws, wz) y = Conv(x, v, bias)"
    )
    return model(changes.pop("body", body), **{**constants, **changes})


def test_quantize_weights_stores_int8_and_one_scale_a_channel():
    before, given = quantized_conv(), image()
    proto, _ = after(before, QuantizeWeights())
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    eight = [array for array in stored.values() if array.dtype == np.int8 and array.ndim == 4]
    assert len(eight) == 1 and bool((eight[0][1] == 0).all())
    assert "w" not in stored
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-5)


def test_quantize_weights_makes_a_one_sided_channel_symmetric():
    """torch's fused quantizer gives a channel without negative weights a zero point of -128, and 255 steps above it."""
    weight = np.abs(floats(4, 3, 3, 3))
    scale = (weight.reshape(4, -1).max(1) / 255).astype(np.float32)
    before, given = quantized_conv(w=weight, ws=scale, wz=np.full(4, -128, np.int8)), image()
    proto, _ = after(before, QuantizeWeights())
    # a coarser step for these channels: each of 27 weights moves by up to half of it, 1/254 of the largest
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=27 * weight.max() / 254)
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), rtol=0.05, atol=0.02)


BATCH_NORM = dict(
    gamma=np.array([1.5, -0.7, 0.0, 0.3], np.float32),
    beta=floats(4),
    mean=floats(4),
    var=np.abs(floats(4)) + 0.1,
)


@pytest.mark.parametrize("division", [False, True], ids=["plain", "with the division of fused training"])
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_fold_batchnorm_into_scales_and_bias(division, weights):
    body = "y = BatchNormalization(c, gamma, beta, mean, var)"
    constants = dict(BATCH_NORM)
    if division:
        body = "d = Div(c, factor) " + body.replace("(c,", "(d,")
        constants["factor"] = np.array([0.5, 2, 1, 3], np.float32).reshape(1, 4, 1, 1)
    if weights == "float":
        before = model("c = Conv(images, w, bias) " + body, w=floats(4, 3, 3, 3), bias=floats(4), **constants)
        steps = [FoldBatchNorm()]
    else:
        quantizers = (
            "q = QuantizeLinear(images, xs, xz) x = DequantizeLinear(q, xs, xz) "
            "p = QuantizeLinear<axis = 0>(w, ws, wz) v = DequantizeLinear<axis = 0>(p, ws, wz) c = Conv(x, v, bias) "
        )
        before = quantized_conv(body=quantizers + body, **constants)
        steps = [QuantizeWeights(), FoldBatchNorm()]
    proto, graph = after(before, *steps)
    given = image()
    assert "BatchNormalization" not in ops(proto) and "Div" not in ops(proto)
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=2e-4)
    if weights == "int8":
        scales = producer(graph.nodes("Conv")[0].inputs[1]).inputs[1].values
        assert bool((scales > 0).all()), "a negative factor goes into the weights: engines want positive scales"


def test_short_names_are_for_tensors_inside_the_graph_only():
    before, given = quantized_conv(), image()
    before.graph.node[0].name = "/model.0/conv/Conv"
    before.graph.initializer[0].name, old = "t0", before.graph.initializer[0].name  # a name that the pass would give
    for node in before.graph.node:
        node.input[:] = ["t0" if name == old else name for name in node.input]
    expected = outputs(before, given)  # first: onnx-graphsurgeon renames the constants of the model that it was given
    proto, _ = after(before, ShortenNames())
    assert [v.name for v in (*proto.graph.input, *proto.graph.output)] == ["images", "y"]
    assert "/model.0/conv/Conv" in [node.name for node in proto.graph.node]
    inside = {name for node in proto.graph.node for name in (*node.input, *node.output)} - {"images", "y"}
    assert inside == {f"t{n}" for n in range(len(inside))}
    np.testing.assert_array_equal(outputs(proto, given), expected)


def test_lifted_and_placed_again_the_numbers_are_those_of_training():
    before, given = quantized_conv(), image()
    proto, graph = after(before, QuantizeWeights(), LiftQuantizers(), AT_CONVOLUTIONS)
    assert graph.grids["images"].zero_point == 0  # int8 -128 is uint8 0
    assert ops(proto).count(QUANTIZE) == 1
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-5)


def test_equal_quantizers_of_one_tensor_become_one_and_different_ones_a_wider_one():
    a, b = Grid.covering(-1.0, 3.0), Grid.covering(-2.0, 1.0)
    assert a.union(a) is a
    both = a.union(b)
    assert both.low <= -2 + both.scale / 2 and both.high >= 3 - both.scale / 2
    zero = both.scale * (both.zero_point - np.float32(both.zero_point))
    assert zero == 0, "padding with zero must stay exact"


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("low, high", [(-0.28, 3.0), (-0.28, 12.0), (-0.28, 0.9), (0.0, 5.0)])
def test_a_derived_grid_loses_little_more_than_its_rounding(name, low, high):
    function, output = ACTIVATIONS[name], Grid.covering(low, high)
    grid = input_grid(function, output)
    x = np.linspace(-20, 20, 20001)
    x = x[function(x) <= high]
    seen = [np.clip(function(v), output.low, output.high) for v in (grid.rounded(x), x)]
    slope = 1.1 if name != "HardSwish" else 1.5
    assert np.abs(seen[0] - seen[1]).max() <= slope * grid.scale / 2 + output.scale / 4 + 1e-6
    reach = {"SiLU": 9, "HardSwish": 5, "Relu": 1.1, "LeakyRelu": 4}[name]  # steps of the output that one of it takes
    assert grid.scale <= reach * output.scale


@pytest.mark.parametrize("draw", [RANDOM.laplace, RANDOM.normal], ids=["laplace", "normal"])
@pytest.mark.parametrize("name, gain", [("SiLU", 0.97), ("HardSwish", 1.0), ("Relu", 1.0), ("LeakyRelu", 1.0)])
def test_what_batch_norm_knows_of_an_activations_input_makes_its_grid_err_less(name, gain, draw):
    function = ACTIVATIONS[name]
    mean, deviation = np.linspace(-0.8, 0.8, 32), np.linspace(0.4, 1.2, 32)
    wide = deviation / np.sqrt(2) if draw == RANDOM.laplace else deviation
    x = draw(mean, wide, (4000, 32)).ravel()
    output = Grid.covering(function(x).min(), np.quantile(function(x), 0.99999))

    def error(grid):
        return np.sqrt(np.mean((output.rounded(function(grid.rounded(x))) - function(x)) ** 2))

    assert error(input_grid(function, output, (mean, deviation))) <= gain * error(input_grid(function, output)) + 1e-9


def grids_for(graph: Graph, **grids) -> None:
    graph.grids.update(grids)


def test_complete_grids_follows_moved_values_and_activations():
    body = (
        "c = Conv(images, w) s = Sigmoid(c) a = Mul(c, s) m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) "
        "t = Concat<axis = 1>(a, m) y = Conv(t, v)"
    )
    graph = Graph.read(model(body, w=floats(4, 3, 1, 1), v=floats(2, 8, 1, 1)))
    observed = Grid.covering(-0.28, 4.0)
    grids_for(graph, t=observed)
    CompleteGrids().apply(graph)
    assert graph.grids["m"] is observed and graph.grids["a"] is observed
    assert graph.grids["s"].high == pytest.approx(1.0) and graph.grids["s"].zero_point == 0
    assert graph.grids["c"].high == pytest.approx(4.07, abs=0.05) and -9 < graph.grids["c"].low < -5
    assert graph.grids["images"].scale == np.float32(1 / 255)
    assert "y" not in graph.grids


def test_complete_grids_asks_the_batch_norm_that_was_folded():
    before = model(
        "c = Conv(images, w) b = BatchNormalization(c, gamma, beta, mean, variance) s = Sigmoid(b) a = Mul(b, s) "
        "y = Conv(a, v)",
        w=floats(4, 3, 1, 1),
        v=floats(2, 4, 1, 1),
        gamma=np.array([1, -0.5, 1, 1], np.float32),
        beta=np.array([0, 0, 0.5, 0], np.float32),
        mean=floats(4),
        variance=np.ones(4, np.float32),
    )
    graph = Graph.read(before)
    grids_for(graph, a=Grid.covering(-0.28, 4.0))
    FoldBatchNorm().apply(graph)
    mean, deviation = graph.spreads["b"]
    assert mean.tolist() == [0, 0, 0.5, 0] and deviation.tolist() == [1, 0.5, 1, 1]
    CompleteGrids().apply(graph)
    assert -5 < graph.grids["b"].low < -2


def test_everywhere_means_everywhere_that_has_a_grid():
    body = "c = Conv(images, w, b) s = Sigmoid(c) a = Mul(c, s) d = Conv(a, v) y = Sigmoid(d)"
    before = model(body, w=floats(4, 3, 1, 1), b=floats(4), v=floats(2, 4, 1, 1))
    graph = Graph.read(before)
    grids_for(graph, a=Grid.covering(-0.28, 3.0))
    CompleteGrids().apply(graph)
    EVERYWHERE.apply(graph)
    proto = graph.write()
    assert ops(proto).count(QUANTIZE) == 4 and ops(proto).count(DEQUANTIZE) == 4  # images, c, s, a
    given = image()
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=0.05)


def test_quantize_heads_gives_every_channel_its_own_step():
    weight = floats(6, 3, 1, 1) * np.array([1, 2, 4, 8, 1, 1]).reshape(6, 1, 1, 1).astype(np.float32)
    before = model("y = Conv(images, w, b)", w=weight, b=floats(6))
    quantized = model(
        "v = DequantizeLinear<axis = 0>(q, s) y = Conv(images, v, b)",
        q=np.round(weight / (np.abs(weight).max((1, 2, 3), keepdims=True) / 127)).astype(np.int8),
        s=(np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32),
        b=numpy_helper.to_array(before.graph.initializer[1]),
    )
    proto, graph = after(quantized, CompleteGrids(), QuantizeHeads(), PlaceQuantizers(("Conv",), outputs=True))
    given = image()
    grid = graph.grids["y"]
    assert grid.scale.shape == (6,) and grid.common.scale.shape == ()
    difference = np.abs(outputs(proto, given) - outputs(quantized, given)).max((0, 2, 3))
    assert bool((difference <= grid.scale * 0.501 + 1e-4).all())


def test_box_logits_get_a_finer_grid_than_scores():
    from yolov5_sparse_plugin.export.passes.quantize_heads import BOX_LIMIT, CONFIDENCE_LIMIT, logit_limits

    proto = model(
        "c = Conv(images, w, b) r = Reshape(c, shape) t = Transpose<perm = [0, 1, 3, 4, 2]>(r) y = Reshape(t, flat)",
        w=floats(14, 3, 1, 1),
        b=floats(14),
        shape=np.array([1, 2, 7, 16, 16]),
        flat=np.array([1, 2, 16, -1]),
    )
    computed = model(  # as --dynamic does it
        "c = Conv(images, w, b) n = Shape(images) s = Concat<axis = 0>(batch, two, seven, h, h) r = Reshape(c, s) "
        "y = Reshape(r, flat)",
        w=floats(14, 3, 1, 1),
        b=floats(14),
        **{"batch": np.array([1]), "two": np.array([2]), "seven": np.array([7]), "h": np.array([16])},
        flat=np.array([1, 2, 16, -1]),
    )
    for graph in (proto, computed):
        limits = logit_limits(Graph.read(graph).nodes("Conv")[0]).reshape(2, 7)
        assert bool((limits[:, :4] == BOX_LIMIT).all()) and bool((limits[:, 4:] == CONFIDENCE_LIMIT).all())


@pytest.mark.parametrize("eight", [False, True], ids=["float", "int8"])
def test_stem_to_depth_computes_the_same_products(eight):
    weight = floats(4, 3, 6, 6)
    body = "y = Conv<kernel_shape = [6, 6], strides = [2, 2], pads = [2, 2, 2, 2]>(images, w, b)"
    constants = dict(w=weight, b=floats(4))
    if eight:
        body = "w = DequantizeLinear<axis = 0>(q, s) " + body
        scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
        q = np.round(weight / scale.reshape(4, 1, 1, 1)).astype(np.int8)
        constants = dict(q=q, s=scale, b=constants["b"])
    before = model(body, **constants)
    proto, _ = after(before, StemToDepth())
    assert "SpaceToDepth" in ops(proto)
    given = image()
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-5)


def test_transpose_rows_moves_the_same_numbers_a_box_at_a_time():
    before = model(
        "a = Conv(images, w) b = Reshape(a, shape) c = Transpose<perm = [0, 1, 3, 4, 2]>(b) "
        "d = Sigmoid(c) y = Reshape(d, flat)",
        w=floats(14, 3, 1, 1),
        shape=np.array([1, 2, 7, 16, 16]),
        flat=np.array([1, 2, 256, 7]),
    )
    proto, _ = after(before, TransposeRows())
    assert ops(proto) == ["Conv", "Sigmoid", "Transpose", "Reshape", "Transpose", "Reshape"]
    permutations = [list(node.attribute[0].ints) for node in proto.graph.node if node.op_type == "Transpose"]
    assert permutations == [[0, 2, 3, 1], [0, 3, 1, 2, 4]]
    given = image()
    assert np.array_equal(outputs(before, given), outputs(proto, given))


def test_transpose_rows_leaves_other_reshapes_alone():
    graph = Graph.read(model("a = Reshape(images, s) y = Transpose<perm = [0, 1, 3, 2]>(a)", s=np.array([1, 3, 8, 32])))
    assert TransposeRows().check(graph) == "nothing is reshaped and transposed as the Detect layer does it"


def test_stem_to_depth_says_why_it_leaves_other_stems_alone():
    graph = Graph.read(model("y = Conv(images, w)", w=floats(4, 3, 3, 3)))
    assert StemToDepth().check(graph) == "the model does not begin with a 6x6 convolution of stride 2"


def test_quantize_bias_in_units_of_the_products():
    before = quantized_conv()
    with_weights, _ = after(before, QuantizeWeights())
    proto, _ = after(with_weights, QuantizeBias())
    assert any(t.data_type == TensorProto.INT32 for t in proto.graph.initializer)
    given = image()
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-4)


def test_quantize_bias_makes_room_where_a_weight_is_too_small_for_its_bias():
    weight = floats(4, 3, 3, 3)
    weight[2] *= 1e-9
    scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    before = quantized_conv(w=weight, ws=scale, bias=np.array([1, 1, 50, 1], np.float32))
    proto, _ = after(before, QuantizeWeights(), QuantizeBias())
    given = image()
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-3)


def test_convolve_integers_where_the_weight_has_one_scale():
    weight = floats(4, 3, 3, 3)
    weight[0] = 0  # a pruned channel has a scale of its own, which must not be taken for that of the others
    before = quantized_conv(w=weight, ws=np.full(4, np.abs(weight).max() / 127, np.float32))
    proto, _ = after(before, QuantizeWeights(), LiftQuantizers(), AT_CONVOLUTIONS, ConvolveIntegers())
    assert "ConvInteger" in ops(proto) and "Conv" not in ops(proto) and "DequantizeLinear" not in ops(proto)
    given = image()
    np.testing.assert_allclose(outputs(proto, given), outputs(before, given), atol=1e-4)


def test_convolve_integers_leaves_a_bias_that_does_not_fit_alone():
    weight = floats(4, 3, 3, 3) * np.float32(1e-9)
    scale = np.full(4, np.abs(weight).max() / 127, np.float32)
    before = quantized_conv(w=weight, ws=scale, bias=np.full(4, 50, np.float32))
    graph = Graph.read(before)
    for step in (QuantizeWeights(), LiftQuantizers(), AT_CONVOLUTIONS, ConvolveIntegers()):
        step.apply(graph)
    given = image()
    np.testing.assert_allclose(outputs(graph.write(), given), outputs(before, given), atol=1e-3)


def test_convolve_integers_leaves_a_scale_a_channel_alone():
    graph = Graph.read(quantized_conv())
    for step in (QuantizeWeights(), LiftQuantizers(), AT_CONVOLUTIONS):
        step.apply(graph)
    assert ConvolveIntegers().apply(graph) == 0


def test_uint8_input_takes_the_bytes_of_the_image():
    before = quantized_conv()
    proto, _ = after(before, QuantizeWeights(), LiftQuantizers(), AT_CONVOLUTIONS, Uint8Input())
    given = image()
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    np.testing.assert_allclose(
        outputs(proto, np.round(given * 255).astype(np.uint8)), outputs(before, given), atol=1e-5
    )


def test_uint8_input_says_why_it_cannot():
    graph = Graph.read(model("y = Conv(images, w)", w=floats(4, 3, 3, 3)))
    assert Uint8Input().check(graph) == "its images are read by Conv, not by one quantizer"


def test_saturate_relu_is_the_same_function():
    body = "c = Conv(images, w, b) r = Relu(c) y = Conv(r, v)"
    before = model(body, w=floats(4, 3, 1, 1), b=floats(4), v=floats(2, 4, 1, 1))

    def placed(*steps):
        graph = Graph.read(before)
        grids_for(graph, r=Grid.covering(0.0, 2.0))
        CompleteGrids().apply(graph)
        for step in (*steps, PlaceQuantizers(("Conv", "Relu"), outputs=True)):
            assert step.apply(graph) > 0
        return graph.write()

    with_relu, without = placed(), placed(SaturateRelu())
    assert "Relu" in ops(with_relu) and "Relu" not in ops(without)
    assert ops(without).count(QUANTIZE) == 2
    given = image()
    # two roundings, of the ReLU's input and output, become one
    np.testing.assert_allclose(outputs(without, given), outputs(with_relu, given), atol=0.03)


def test_shrink_constants_keeps_what_broadcasting_needs():
    anchors = np.broadcast_to(floats(1, 3, 1, 1), (1, 3, 16, 16)).copy()
    before = model("a = Mul(images, k) y = Add(a, g)", k=anchors, g=floats(1, 3, 16, 16))
    proto, _ = after(before, ShrinkConstants())
    assert sorted(list(t.dims) for t in proto.graph.initializer) == [[1, 3, 1, 1], [1, 3, 16, 16]]
    given = image()
    assert np.array_equal(outputs(proto, given), outputs(before, given))


def test_every_pass_has_a_drawing_a_name_and_a_test():
    tests = Path(__file__).read_text()
    names = [module.name for module in pkgutil.iter_modules(passes.__path__)]
    assert len(names) > 10
    for name in names:
        module = importlib.import_module(f"yolov5_sparse_plugin.export.passes.{name}")
        (step,) = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
        assert step.name == name and "->" in step.__doc__
        assert f"{step.__name__}(" in tests, f"no test of {name}"


def test_the_targets_are_those_of_the_option():
    assert tuple(TARGETS) == options.TARGETS


def test_a_required_pass_that_cannot_run_ends_the_export():
    from yolov5_sparse_plugin.errors import ExportError

    with pytest.raises(ExportError, match="--sparse-target openvino: the graph cannot be made fit for it: its images"):
        fixup.fix(model("a = Relu(images) y = Conv(a, w)", w=floats(4, 3, 3, 3)), "openvino", uint8_input=True)


def test_metadata_and_names_survive():
    proto = quantized_conv()
    helper.set_model_props(proto, {"stride": "32", "names": "{0: 'disc'}"})
    fixed = fixup.fix(proto, "onnxruntime")
    assert {p.key: p.value for p in fixed.metadata_props} == {"stride": "32", "names": "{0: 'disc'}"}
    assert [o.name for o in fixed.graph.output] == ["y"] and [i.name for i in fixed.graph.input] == ["images"]
