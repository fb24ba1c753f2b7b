"""What each pass gains: a target's graph without it, against the whole, in each engine.

    python benchmarks/passes.py --raw raw.onnx [--rounds 20]

`raw.onnx` is what torch exports of a quantized checkpoint, before any pass:

    YOLOV5_SPARSE_DISABLE=onnx_fixer yolov5 export --weights best.pt --include onnx
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx

from yolov5_sparse_plugin.bench.measure import ENGINES, measure
from yolov5_sparse_plugin.export import fixup
from yolov5_sparse_plugin.export.graph import Graph
from yolov5_sparse_plugin.export.passes.convolve_integers import ConvolveIntegers
from yolov5_sparse_plugin.export.passes.quantize_bias import QuantizeBias
from yolov5_sparse_plugin.export.passes.quantize_heads import QuantizeHeads
from yolov5_sparse_plugin.export.passes.stem_to_depth import StemToDepth
from yolov5_sparse_plugin.export.passes.transpose_rows import TransposeRows
from yolov5_sparse_plugin.export.targets import AT_CONVOLUTIONS, COMMON, EVERYWHERE

WHOLE = (StemToDepth(), QuantizeHeads(), EVERYWHERE, QuantizeBias())
VARIANTS = {
    "everywhere": WHOLE,
    "without stem_to_depth": WHOLE[1:],
    "without quantize_heads": (WHOLE[0], *WHOLE[2:]),
    "without quantize_bias": WHOLE[:3],
    "everywhere, transpose_rows": (*WHOLE, TransposeRows()),
    "at convolutions": (AT_CONVOLUTIONS,),
    "at convolutions, transpose_rows": (AT_CONVOLUTIONS, TransposeRows()),
    "at convolutions, stem_to_depth": (StemToDepth(), AT_CONVOLUTIONS),
    "at convolutions, quantize_bias": (AT_CONVOLUTIONS, QuantizeBias()),
    "integer convolutions": (AT_CONVOLUTIONS, ConvolveIntegers()),
    "no quantizers placed": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    model = onnx.load(arguments.raw)
    with tempfile.TemporaryDirectory() as name:
        files = []
        for variant, passes in VARIANTS.items():
            graph = Graph.read(onnx.shape_inference.infer_shapes(model))
            fixup.run(graph, (*COMMON, *passes), variant)
            files.append(Path(name) / f"{variant}.onnx")
            onnx.save(graph.write(), files[-1])
        files.append(arguments.raw)
        for row in measure(files, [e for e in ENGINES if ENGINES[e].installed()], rounds=arguments.rounds):
            speed = row.error or f"{row.milliseconds:8.1f} ms  {row.ratio:.3f}"
            print(f"{row.engine:12} {row.model.stem:32} {speed}", flush=True)


if __name__ == "__main__":
    main()
