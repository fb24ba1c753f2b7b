"""The main job in two minutes, offline: a small data set, a real sparse training run, its export, what came of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from yolov5_sparse_plugin.errors import SparsePluginError

CLASSES = ("disc", "box", "cross")
RECIPE = """\
# dense for 4 epochs, pruned to 60 % in the next 4, quantized for the last 2
training_modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 12.0}
  - !LearningRateFunctionModifier {start_epoch: 0.0, end_epoch: 1.0, lr_func: linear, init_lr: 0.0001, final_lr: 0.004}
  - !LearningRateFunctionModifier {start_epoch: 1.0, end_epoch: 12.0, lr_func: cosine, init_lr: 0.004, final_lr: 0.0002}
pruning_modifiers:
  - !GlobalMagnitudePruningModifier
      params: __ALL_PRUNABLE__
      init_sparsity: 0.05
      final_sparsity: 0.6
      start_epoch: 4.0
      end_epoch: 8.0
      update_frequency: 0.5
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: 10.0
      model_fuse_fn_name: no_fuse
      scheme:
        input_activations: {num_bits: 8, symmetric: false}
        weights: {num_bits: 8, symmetric: true, strategy: channel}
      ignore: [SiLU, Upsample, MaxPool2d, Concat, Detect, BatchNorm2d]
      strict: false
"""


def draw(random: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
    """Draw one picture of up to three shapes, and its labels.

    Returns:
        uint8 [size, size, 3], and YOLO label lines `class x y w h`, 0..1.
    """
    image = random.integers(90, 140, (1, 1, 3)) + random.integers(-25, 25, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    labels: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(random.integers(1, 4)):
        r = random.uniform(0.11, 0.2) * size
        cx, cy = random.uniform(r, size - r, 2)
        if any(abs(cx - a) < r + b and abs(cy - c) < r + b for a, c, b in taken):
            continue
        taken.append((cx, cy, r))
        kind = int(random.integers(len(CLASSES)))
        dx, dy = np.abs(x - cx), np.abs(y - cy)
        shape = (
            dx**2 + dy**2 <= r**2,
            (dx <= r) & (dy <= r),
            ((dx <= r) & (dy <= r / 3)) | ((dx <= r / 3) & (dy <= r)),
        )[kind]
        colour = np.zeros(3)
        colour[kind] = random.integers(180, 255)
        image[shape] = colour + random.integers(0, 40, 3)
        labels.append(f"{kind} {cx / size:.5f} {cy / size:.5f} {2 * r / size:.5f} {2 * r / size:.5f}")
    return np.clip(image, 0, 255).astype(np.uint8), labels


def make_data(folder: Path, size: int = 128, counts: tuple[int, int] = (192, 48)) -> Path:
    """Write a data set of drawn shapes in YOLO's layout; return its data.yaml."""
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in zip(("train", "val"), counts):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, labels = draw(random, size)
            Image.fromarray(image).save(folder / "images" / split / f"{number:04}.jpg", quality=92)
            (folder / "labels" / split / f"{number:04}.txt").write_text("\n".join(labels) + "\n")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return data


def offline_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a run that needs no network: YOLOV5_CONFIG_DIR with the font it would download."""
    environment = dict(os.environ)
    if "YOLOV5_CONFIG_DIR" not in environment:
        import matplotlib

        config = folder / "yolov5-config"
        config.mkdir(parents=True, exist_ok=True)
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):
            shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", config / name)
        environment["YOLOV5_CONFIG_DIR"] = str(config)
    environment.setdefault("WANDB_MODE", "offline")
    return environment


def yolov5_command() -> str:
    """Return the path of the `yolov5` command of this environment."""
    command = Path(sys.executable).with_name("yolov5")
    if command.exists():
        return str(command)
    found = shutil.which("yolov5")
    if not found:
        raise SparsePluginError(
            "the command 'yolov5' is not installed here. Install it with: pip install 'yolov5-sparse-plugin[yolov5]'"
        )
    return found


def run(folder: Path) -> int:
    """Run the demo in `folder`; return the exit status."""
    from yolov5_sparse_plugin.checkpoints.summary import checkpoint_rows

    folder.mkdir(parents=True, exist_ok=True)
    print("This trains and exports a small model: about a minute and a half on two cores, no network.", flush=True)
    print(f"Drawing a data set of {', '.join(CLASSES)} into {folder / 'data'} …", flush=True)
    data = make_data(folder / "data")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    arguments = ["train", "--data", str(data), "--weights", "", "--cfg", "yolov5n.yaml", "--img", "128"]
    arguments += ["--batch-size", "16", "--device", "cpu", "--workers", "0", "--optimizer", "Adam", "--noplots"]
    arguments += ["--sparse-recipe", str(recipe), "--sparse-gradient-accum-steps", "1"]
    arguments += ["--project", str(folder / "runs"), "--name", "demo", "--exist-ok"]
    shutil.rmtree(folder / "runs" / "demo", ignore_errors=True)
    execute("Prune and quantize", arguments, folder)
    weights = folder / "runs" / "demo" / "weights"
    problems = failures(checkpoint_rows(weights))  # the run has just printed them as a table
    for problem in problems:
        print(f"yolov5-sparse: error: {problem}", file=sys.stderr)
    if problems:
        return 1
    arguments = ["export", "--weights", str(weights / "best.pt"), "--include", "onnx", "--imgsz", "128"]
    execute("Export", [*arguments, "--data", str(data), "--sparse-report", "fast"], folder)
    print(f"\nNext: open {weights / 'best.report.html'}, or measure its accuracy as well: --sparse-report full")
    return 0


def execute(what: str, arguments: list[str], folder: Path) -> None:
    """Say and run a command of YOLOv5; end with its exit status where it fails."""
    print(f"\n{what}; the command, as you would type it:\n\n  yolov5 {shlex.join(arguments)}\n", flush=True)
    status = subprocess.call([yolov5_command(), *arguments], env=offline_environment(folder))
    if status:
        print(f"\nyolov5 {arguments[0]} failed with exit status {status}; see above.", file=sys.stderr)
        raise SystemExit(status)


def failures(rows: list[dict]) -> list[str]:
    """Return what is wrong with the demo's checkpoints, nothing if all is as the recipe says."""
    by_name = {row["file"].name: row for row in rows}
    problems = [f"{name} was not written" for name in ("best.pt", "best_pruned.pt") if name not in by_name]
    best = by_name.get("best.pt")
    if best:
        if best["phase"] != "pruned_quantized":
            problems.append(f"best.pt is {best['phase']}, not pruned_quantized")
        if abs(best["sparsity"] - 0.6) > 0.001:
            problems.append(f"best.pt has {best['sparsity']:.2%} zeros, the recipe says 60 %")
        if not best["map50"] or best["map50"] < 0.3:
            problems.append(f"best.pt has learned nothing: mAP50 is {best['map50']}")
    return problems
