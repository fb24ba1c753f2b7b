"""The command `yolov5-sparse`: demo, status, recipes. Training and validation stay with `yolov5`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from yolov5_sparse_plugin import __version__
from yolov5_sparse_plugin.errors import SparsePluginError

EPILOG = """\
examples:
  yolov5-sparse demo                      prune and quantize a small model, in under four minutes, offline
  yolov5-sparse recipes                   the shipped recipes and their variables
  yolov5-sparse status                    what is attached to which YOLOv5, and why

To train:
  yolov5 train --data data.yaml --weights yolov5s.pt --sparse-recipe finetune_pruned_quantized
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yolov5-sparse",
        description="Sparsification for an unmodified YOLOv5.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"yolov5-sparse-plugin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="show the main job on a small generated data set (under four minutes)")
    demo.add_argument("--dir", type=Path, default=Path("demo"), help="where to work; default: ./demo")
    commands.add_parser("status", help="show versions, hooks and doorways: what is attached to which YOLOv5, and why")
    recipes = commands.add_parser("recipes", help="list the shipped recipes, or print one")
    recipes.add_argument("name", nargs="?", help="print this recipe, to start your own from it")
    return parser


def demo(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin import demo as demonstration

    return demonstration.run(arguments.dir)


def recipes(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin.errors import RecipeError, nearest
    from yolov5_sparse_plugin.recipes_io import shipped

    files = shipped()
    if arguments.name:
        if arguments.name not in files:
            raise RecipeError(
                f"recipes {arguments.name}: no shipped recipe has that name. {nearest(arguments.name, files)}"
            )
        print(files[arguments.name].read_text(), end="")
        return 0
    for name, file in files.items():
        print(f"{name:28} {file.read_text().splitlines()[0].lstrip('# ')}")
    print("\nUse one with: yolov5 train --sparse-recipe NAME [--sparse-recipe-args num_epochs=…]")
    return 0


def status(arguments: argparse.Namespace) -> int:
    from importlib import metadata

    from yolov5_sparse_plugin import manager, options, startup
    from yolov5_sparse_plugin.hosts import pip_package

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    print(f"yolov5-sparse-plugin {__version__} on Python {sys.version.split()[0]}")
    for name in ("yolov5", "ultralytics", "torch", "sparseml", "sparsezoo", "onnx", "pluggy"):
        print(f"  {name:12} {version(name)}")
    off = os.environ.get("YOLOV5_SPARSE_AUTOLOAD") == "0"
    if startup.installed():
        print("autoload: on (yolov5_sparse_plugin.pth; YOLOV5_SPARSE_AUTOLOAD=0 switches it off)")
    elif off:
        print("autoload: off, because YOLOV5_SPARSE_AUTOLOAD=0 is set")
    else:
        print("autoload: off, yolov5_sparse_plugin.pth did not run. Was the package installed with pip?")
    blocked = options.disabled_hooks()
    config = options.config_file(os.environ, Path.cwd())
    print(f"config file: {config or 'none (yolov5-sparse.yaml in the current directory would be read)'}")
    hooks = manager.create(options.resolve({}).hooks, blocked)
    print("hooks, in order of registration:")
    for name, plugin in hooks.list_name_plugin():
        print(f"  {name:20} {'blocked' if plugin is None else (plugin.__doc__ or '').strip().splitlines()[0]}")
    if version("yolov5") == "not installed":
        print("host: none. Install one with: pip install 'yolov5-sparse-plugin[yolov5]'")
        return 0
    if off or not startup.installed():
        return 0
    print("doorways of the host:")
    import yolov5.train  # noqa: F401  attaches

    for name in pip_package.attached():
        print(f"  {name}")
    return 0


def main() -> int:
    """Run the command; return its exit status. Errors that a user can cause are one sentence on stderr."""
    arguments = build_parser().parse_args()
    try:
        return {"demo": demo, "status": status, "recipes": recipes}[arguments.command](arguments)
    except SparsePluginError as error:
        print(f"yolov5-sparse: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("\nyolov5-sparse: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
