"""Speed and size of exported graphs: pruned and quantized against dense FP32, every target's graph in every engine.

    python benchmarks/engines.py [--models s n] [--batch 1 16] [--img 640] [--rounds 20] [--keep DIR]

The weights are random, with batch-norm statistics of real forward passes: time does not depend on what they detect.
Every graph is written by the real `yolov5 export`; the dense one by upstream's own graph, untouched. Ratios are to the
dense model, in one interleaved run for each engine.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yolov5_sparse_plugin.bench.measure import ENGINES, measure
from yolov5_sparse_plugin.demo import make_data, offline_environment

HERE = Path(__file__).resolve().parent
CHANNELS, TENSOR = (HERE / "recipes" / f"pruned85_quantized{end}.yaml" for end in ("", "_per_tensor"))
# name of the file -> further words of `yolov5 export`
GRAPHS = {
    "dense": [],
    "onnxruntime": ["--sparse-one-shot", CHANNELS, "--sparse-target", "onnxruntime"],
    "openvino": ["--sparse-one-shot", CHANNELS, "--sparse-target", "openvino"],
    "deepsparse": ["--sparse-one-shot", TENSOR, "--sparse-target", "deepsparse"],
    "deepsparse-channels": ["--sparse-one-shot", CHANNELS, "--sparse-target", "deepsparse"],
}


def random_model(size: str, file: Path) -> None:
    """Write a dense checkpoint of random weights with 80 classes."""
    import logging

    import torch
    import yolov5
    from yolov5.models.yolo import Model
    from yolov5.utils.general import LOGGER

    LOGGER.setLevel(logging.WARNING)  # its table of layers
    torch.manual_seed(0)
    model = Model(str(Path(yolov5.__file__).parent / "models" / f"yolov5{size}.yaml"), ch=3, nc=80).train()
    model.names = {i: str(i) for i in range(80)}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.5
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(6):
            model(torch.rand(4, 3, 160, 160))
    torch.save({"model": model.eval(), "ema": None, "epoch": -1, "optimizer": None}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["s", "n"], choices=list("nsmlx"))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--img", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder for the graphs; those that are there are used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        data = make_data(folder / "data", size=320, counts=(16, 4))
        env = {**offline_environment(folder), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        command = str(Path(sys.executable).with_name("yolov5"))
        engines = [name for name, engine in ENGINES.items() if engine.installed()]
        for size in arguments.models:
            for batch in arguments.batch:
                files = []
                for name, words in GRAPHS.items():
                    files.append(folder / f"{size}-{batch}" / f"{name}.onnx")
                    if files[-1].exists():
                        continue
                    files[-1].parent.mkdir(exist_ok=True)
                    random_model(size, files[-1].with_suffix(".pt"))
                    words = [*words, "--data", data] if words else []
                    words = ["export", "--weights", files[-1].with_suffix(".pt"), "--include", "onnx", *words]
                    words += ["--imgsz", arguments.img, "--batch-size", batch]
                    started = time.perf_counter()
                    done = subprocess.run(
                        [command, *map(str, words)],
                        env=env,
                        text=True,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                    )
                    if done.returncode:
                        sys.exit(done.stdout[-3000:])
                    print(f"# exported {name} in {time.perf_counter() - started:.1f} s", flush=True)
                dense = files[0].stat().st_size
                print(f"\nyolov5{size}, {arguments.img} px, batch {batch}", flush=True)
                for file in files:
                    packed = len(gzip.compress(file.read_bytes(), 6))
                    raw = file.stat().st_size
                    print(
                        f"  {file.stem:20} {raw / 1e6:6.2f} MB  {raw / dense:.3f} of dense, "
                        f"gzipped {packed / 1e6:.2f} MB  {packed / dense:.3f}"
                    )
                for row in measure(files, engines, batch=batch, rounds=arguments.rounds):
                    speed = (
                        row.error
                        or f"{row.milliseconds:8.1f} ms {row.images_per_second:7.1f} images/s  {row.ratio:.3f}"
                    )
                    print(f"  {row.engine:12} {row.model.stem:20} {speed}", flush=True)


if __name__ == "__main__":
    main()
