"""Accuracy of exported graphs: mAP50 of the torch model and of its ONNX file, per target, on the same square images.

    python benchmarks/export_accuracy.py --weights best.pt --data data.yaml --img 640 [--one-shot RECIPE] [--targets …]

The graph is validated by an unmodified YOLOv5 (the plugin is switched off). `yolov5 val` gives ONNX files square
images and torch models rectangular ones; for a fair comparison the torch model gets the square ones here, too.

Two roundings of one model differ by some thousandths of mAP50 on a hundred images, in either direction. Several sizes
(`--img 576 608 640`) are several such comparisons of the same model; their mean says whether a graph loses anything.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("onnxruntime", "openvino", "deepsparse")
# validates a torch model as `yolov5 val` does, but on square images
SQUARE = """
import sys
import yolov5.val as val
create = val.create_dataloader
val.create_dataloader = lambda *args, **kwargs: create(*args, **{**kwargs, "rect": False})
val.run(data=sys.argv[2], weights=sys.argv[1], imgsz=int(sys.argv[3]), batch_size=1, device="cpu", workers=0,
        project=sys.argv[4], half=False)
"""
PLACES = "mAP50 {:.3f}  mAP50-95 {:.3f}"


def figures(output: str) -> tuple[float, float]:
    """Return (mAP50, mAP50-95) of all classes in the last table that upstream printed."""
    rows = re.findall(r"^\s+all\s+\d+\s+\d+\s+\S+\s+\S+\s+(\S+)\s+(\S+)", output.replace("\r", "\n"), re.M)
    return float(rows[-1][0]), float(rows[-1][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="its folder must be writable: YOLOv5 caches labels")
    parser.add_argument("--img", type=int, nargs="+", default=[640])
    parser.add_argument("--one-shot", help="recipe, for a dense checkpoint")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    arguments = parser.parse_args()
    from yolov5_sparse_plugin.demo import offline_environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**offline_environment(folder), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}

        def run(*words: object, **more: str) -> str:
            words = [sys.executable, *map(str, words)]
            done = subprocess.run(
                words, env={**env, **more}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
            )
            if done.returncode:
                sys.exit(done.stdout[-3000:])
            return done.stdout

        weights, data, runs = arguments.weights.resolve(), arguments.data.resolve(), folder / "val"
        yolov5 = Path(sys.executable).with_name("yolov5")
        files = {}
        for target in arguments.targets:
            (folder / target).mkdir()
            copy = shutil.copyfile(weights, folder / target / "model.pt")
            words = ["--weights", copy, "--include", "onnx", "--imgsz", arguments.img[0], "--sparse-target", target]
            words += ["--sparse-one-shot", arguments.one_shot, "--data", data] if arguments.one_shot else []
            words += ["--dynamic"] if len(arguments.img) > 1 else []
            run(yolov5, "export", *words, "--sparse-report", "none")
            files[target] = copy.with_suffix(".onnx")
        lost: dict[str, list[tuple[float, float]]] = {target: [] for target in files}
        for size in arguments.img:
            # a dense checkpoint of a git checkout is read by upstream alone
            torch = figures(run("-c", SQUARE, weights, data, size, runs))
            print(f"{size} px, {'dense ' * bool(arguments.one_shot)}torch: {PLACES.format(*torch)}", flush=True)
            for target, file in files.items():
                words = ["--weights", file, "--data", data, "--img", size, "--batch-size", 1, "--device", "cpu"]
                words += ["--workers", 0, "--project", runs]
                found = figures(run(yolov5, "val", *words, YOLOV5_SPARSE_AUTOLOAD="0"))
                lost[target].append((found[0] - torch[0], found[1] - torch[1]))
                difference = "{:+.3f} {:+.3f}".format(*lost[target][-1])
                print(f"  {target:12} {PLACES.format(*found)}   difference {difference}", flush=True)
        for target, file in files.items():
            means = "{:+.4f} {:+.4f}".format(*(statistics.mean(column) for column in zip(*lost[target])))
            print(f"{target:14} mean difference {means}, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
