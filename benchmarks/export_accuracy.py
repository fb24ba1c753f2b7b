"""Accuracy of exported graphs: mAP50 of the torch model and of its ONNX file, per target, on the same square images.

    python benchmarks/export_accuracy.py --weights best.pt --data data.yaml --img 640 [--one-shot RECIPE] [--targets …]

The graph is validated by an unmodified YOLOv5 (the plugin is switched off). `yolov5 val` gives ONNX files square
images and torch models rectangular ones; for a fair comparison the torch model gets the square ones here, too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
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


def figures(output: str) -> tuple[float, float]:
    """Return (mAP50, mAP50-95) of all classes in the last table that upstream printed."""
    rows = re.findall(r"^\s+all\s+\d+\s+\d+\s+\S+\s+\S+\s+(\S+)\s+(\S+)", output.replace("\r", "\n"), re.M)
    return float(rows[-1][0]), float(rows[-1][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="its folder must be writable: YOLOv5 caches labels")
    parser.add_argument("--img", type=int, default=640)
    parser.add_argument("--one-shot", help="recipe, for a dense checkpoint")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    arguments = parser.parse_args()
    from yolov5_sparse_plugin.demo import offline_environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**offline_environment(folder), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}

        def run(words: list[str], **more: str) -> str:
            done = subprocess.run(
                words, env={**env, **more}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
            )
            if done.returncode:
                sys.exit(done.stdout[-3000:])
            return done.stdout

        weights, data = arguments.weights.resolve(), str(arguments.data.resolve())
        size = str(arguments.img)
        # a dense checkpoint of a git checkout is read by upstream alone
        torch = figures(run([sys.executable, "-c", SQUARE, str(weights), data, size, str(folder / "val")]))
        print(
            f"{'torch' if not arguments.one_shot else 'dense torch':14} mAP50 {torch[0]:.3f}  mAP50-95 {torch[1]:.3f}"
        )
        yolov5 = str(Path(sys.executable).with_name("yolov5"))
        for target in arguments.targets:
            copy = folder / target / "model.pt"
            copy.parent.mkdir()
            shutil.copyfile(weights, copy)
            words = ["export", "--weights", str(copy), "--include", "onnx", "--imgsz", size, "--sparse-target", target]
            words += ["--sparse-one-shot", arguments.one_shot, "--data", data] if arguments.one_shot else []
            run([yolov5, *words])
            words = [
                "val",
                "--weights",
                str(copy.with_suffix(".onnx")),
                "--data",
                data,
                "--img",
                size,
                "--batch-size",
                "1",
            ]
            words += ["--device", "cpu", "--workers", "0", "--project", str(folder / "val")]
            found = figures(run([yolov5, *words], YOLOV5_SPARSE_AUTOLOAD="0"))
            print(
                f"{target:14} mAP50 {found[0]:.3f}  mAP50-95 {found[1]:.3f}   difference {found[0] - torch[0]:+.3f} "
                f"{found[1] - torch[1]:+.3f}   {os.path.getsize(copy.with_suffix('.onnx')) / 1e6:.1f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
