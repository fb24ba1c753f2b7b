"""The engines that an export is shaped for: which passes run, in which order, and why.

Every target's graph runs in every engine; what differs is where the quantizers stand. docs/performance.md has the
measurements behind each choice.
"""

from __future__ import annotations

from typing import Callable

from yolov5_sparse_plugin.export.graph import Graph, dequantizer
from yolov5_sparse_plugin.export.passes import Pass
from yolov5_sparse_plugin.export.passes.complete_grids import CompleteGrids
from yolov5_sparse_plugin.export.passes.convolve_integers import ConvolveIntegers, common_scale
from yolov5_sparse_plugin.export.passes.fold_batchnorm import FoldBatchNorm
from yolov5_sparse_plugin.export.passes.fold_constants import FoldConstants
from yolov5_sparse_plugin.export.passes.lift_quantizers import LiftQuantizers
from yolov5_sparse_plugin.export.passes.place_quantizers import PlaceQuantizers
from yolov5_sparse_plugin.export.passes.quantize_bias import QuantizeBias
from yolov5_sparse_plugin.export.passes.quantize_heads import QuantizeHeads
from yolov5_sparse_plugin.export.passes.quantize_weights import QuantizeWeights
from yolov5_sparse_plugin.export.passes.saturate_relu import SaturateRelu
from yolov5_sparse_plugin.export.passes.shrink_constants import ShrinkConstants
from yolov5_sparse_plugin.export.passes.stem_to_depth import StemToDepth
from yolov5_sparse_plugin.export.passes.transpose_rows import TransposeRows

EVERYWHERE = PlaceQuantizers(("Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"), outputs=True)
AT_CONVOLUTIONS = PlaceQuantizers(("Conv",), outputs=False)

# what the exporter wrote becomes a float graph with 8-bit weights, and a table of grids
COMMON = (
    FoldConstants(),  # first: the others look for constants
    ShrinkConstants(),
    QuantizeWeights(),  # before batch norm: training rounded the weights that it scales
    FoldBatchNorm(),
    LiftQuantizers(),  # after folding: a quantizer stands at the tensor that it will be placed at
    CompleteGrids(),  # last: it completes what was lifted
)


def for_onnxruntime(graph: Graph) -> tuple[Pass, ...]:
    """8 bits all the way: ONNX Runtime computes convolutions in 8 bits only if their output is quantized, too."""
    return (
        StemToDepth(),  # before quantizers are placed: it runs on floats, and one is wanted behind it
        SaturateRelu(),  # before quantizers are placed: the convolution's output takes the one behind the ReLU
        QuantizeHeads(),  # after batch norm is folded, before the biases are rounded: it changes both
        EVERYWHERE,
        QuantizeBias(),  # last: a bias's unit is the scale of the quantizer before its convolution
    )


def for_openvino(graph: Graph) -> tuple[Pass, ...]:
    """8 bits at the convolutions' inputs: OpenVINO fuses the float activation into the convolution before it."""
    return (AT_CONVOLUTIONS, TransposeRows())


def for_deepsparse(graph: Graph) -> tuple[Pass, ...]:
    """Integer products where each weight has one scale; with a scale a channel, 8 bits all the way."""
    weights = [dequantizer(conv.inputs[1]) for conv in graph.nodes("Conv")]
    if all(weight is None or common_scale(weight) is not None for weight in weights):
        return (AT_CONVOLUTIONS, ConvolveIntegers())
    return for_onnxruntime(graph)


# name as typed -> takes the graph after COMMON has run, returns the passes that make the engine's best graph of it
TARGETS: dict[str, Callable[[Graph], tuple[Pass, ...]]] = {
    "onnxruntime": for_onnxruntime,
    "openvino": for_openvino,
    "deepsparse": for_deepsparse,
}
