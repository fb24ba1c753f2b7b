"""The command `yolov5-sparse`: demo, bench, zoo, run, status, recipes. Training and validation stay with `yolov5`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from yolov5_sparse_plugin import __version__
from yolov5_sparse_plugin.attach import runner
from yolov5_sparse_plugin.errors import plainly
from yolov5_sparse_plugin.zoo.commands import add_parser as add_zoo
from yolov5_sparse_plugin.zoo.commands import run as zoo

EPILOG = """\
examples:
  yolov5-sparse demo                      prune and quantize a small model, in under two minutes, offline
  yolov5-sparse bench a.onnx b.onnx       how fast these models are in the engines on this CPU
  yolov5-sparse zoo --help                keep models under an address, and start from them
  yolov5-sparse run train.py --help       the scripts of a git checkout of YOLOv5, with this plugin
  yolov5-sparse recipes                   the shipped recipes, and what each is for
  yolov5-sparse recipes check FILE        what a recipe will do, epoch by epoch, without training
  yolov5-sparse status                    what is attached to which YOLOv5, and why

To train:
  yolov5 train --data data.yaml --weights yolov5s.pt --sparse-recipe finetune_pruned_quantized
"""

CHECK = "recipes check"
CHECK_EPILOG = """\
examples:
  yolov5-sparse recipes check finetune_pruned_quantized --recipe-args num_epochs=20
  yolov5-sparse recipes check mine.yaml --weights best.pt --plot mine.png

The exit status is 2 where a run with this recipe would be refused, and the message is the same.
"""
BENCH = """\
Time ONNX models in the CPU engines that people deploy with: ONNX Runtime, OpenVINO, DeepSparse.

The models of an engine are timed in turn, round by round, so that noise hits them alike: trust the ratio to the
first model more than the milliseconds. Name the dense model first.
"""
BENCH_EPILOG = """\
examples:
  yolov5-sparse bench dense.onnx pruned_quantized.onnx
                            in every engine that is installed, one image at a time, a thread for each core
  yolov5-sparse bench best.onnx --engine openvino --threads 1
  yolov5-sparse bench dynamic.onnx --batch 16 --img 320
                            other shapes than a model's own need one that was exported with --dynamic
  yolov5-sparse bench best.onnx --json - | jq '.rows[].milliseconds'
                            the table goes to stderr then

An engine that cannot run a model says why below the table; the exit status is 1 only if nothing could be measured.
Engines: pip install onnxruntime; pip install openvino; pip install deepsparse==1.8.0
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
    demo = commands.add_parser("demo", help="show the main job on a small generated data set (under two minutes)")
    demo.add_argument("--dir", type=Path, default=Path("demo"), help="where to work; default: ./demo")
    _add_bench(commands)
    add_zoo(commands)
    run = commands.add_parser(
        "run", help="run a script of a git checkout of YOLOv5: train.py, val.py, detect.py, export.py"
    )
    vars(run)["format_help"] = lambda: runner.USAGE
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGUMENT ...]")
    commands.add_parser("status", help="show versions, hooks and doorways: what is attached to which YOLOv5, and why")
    recipes = commands.add_parser("recipes", help="list the shipped recipes, or print one, with its variables")
    recipes.add_argument("name", nargs="?", help="print this recipe, to start your own from it")
    _add_recipe_check(commands)
    return parser


def _add_recipe_check(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        CHECK,
        help="show what a recipe will do to a model, epoch by epoch, without training",
        description="Check a recipe as a run does, and show what it will do: phases, sparsity and learning rate by\n"
        "epoch, which layers it means, what stays float, and, with --weights, the memory that quantization takes.",
        epilog=CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "recipe", metavar="RECIPE", help="a file (.yaml, .md), the name of a shipped recipe, or a zoo: stub"
    )
    check.add_argument("--weights", metavar="FILE", help="the checkpoint to train from; default: an untrained YOLOv5n")
    check.add_argument("--epochs", type=int, metavar="N", help="length of the run; default: the recipe's")
    check.add_argument(
        "--recipe-args",
        "--sparse-recipe-args",
        metavar="ARGS",
        help="set the recipe's variables: 'num_epochs=12,final_sparsity=0.7'",
    )
    check.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw sparsity and learning rate into this file (.png, .svg)"
    )
    check.add_argument("--batch-size", type=int, default=16, metavar="N", help="for the memory; default: 16")
    check.add_argument("--img", type=int, default=640, metavar="N", help="pixels a side, for the memory; default: 640")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure how fast ONNX models are in ONNX Runtime, OpenVINO and DeepSparse on this CPU",
        description=BENCH,
        epilog=BENCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="exported .onnx file")
    bench.add_argument(
        "--engine", metavar="NAME[,NAME]", help="onnxruntime, openvino, deepsparse; default: all that are installed"
    )
    bench.add_argument("--batch", type=int, default=1, metavar="N", help="images in one inference; default: 1")
    bench.add_argument("--threads", type=int, metavar="N", help="default: the physical cores that are available")
    bench.add_argument("--img", type=int, metavar="N", help="pixels a side; default: the model's own, 640 if dynamic")
    bench.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="timed inferences of each model; default: 20"
    )
    bench.add_argument("--json", metavar="FILE", help="write figures, versions and settings to this file; -: to stdout")


def bench(arguments: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from yolov5_sparse_plugin import cpu
    from yolov5_sparse_plugin.bench import table
    from yolov5_sparse_plugin.bench.measure import ENGINES, measure
    from yolov5_sparse_plugin.errors import BenchError

    file = None if arguments.json in (None, "-") else Path(arguments.json)
    if file and (file.is_dir() or not file.parent.is_dir()):
        found = "this is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise BenchError(f"bench --json {file}: {found}. Give the path of a file to write, or - for stdout.")
    if arguments.engine is None:
        engines = [key for key, engine in ENGINES.items() if engine.installed()]
    else:
        engines = list(dict.fromkeys(word.strip() for word in arguments.engine.split(",") if word.strip()))
    threads = arguments.threads if arguments.threads is not None else cpu.detect().cores
    asked = {"batch": arguments.batch, "threads": threads, "img": arguments.img, "rounds": arguments.rounds}
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None)
        rows = measure(
            arguments.models,
            engines,
            **asked,
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )
    console = Console(stderr=arguments.json == "-")
    table.print_table(rows, console, **asked)
    for key, engine in ENGINES.items():
        if key not in engines and not engine.installed():
            console.print(f"{engine.title} is not installed here: {engine.pip}", highlight=False)
    if arguments.json:
        text = json.dumps(table.as_json(rows, **asked), indent=2) + "\n"
        if file is None:
            print(text, end="")
        else:
            file.write_text(text)
    return 0 if any(row.milliseconds for row in rows) else 1


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


def recipe_check(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin import recipe_check as checking
    from yolov5_sparse_plugin.errors import OptionError

    for name, least in (("epochs", 1), ("batch_size", 1), ("img", 32)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise OptionError(f"recipes check --{name.replace('_', '-')} {value}: needs {least} or more.")
    return checking.run(
        arguments.recipe,
        arguments.recipe_args,
        arguments.weights,
        arguments.epochs,
        arguments.plot,
        (arguments.batch_size, arguments.img),
    )


def status(arguments: argparse.Namespace) -> int:
    from importlib import metadata

    from yolov5_sparse_plugin import cpu, manager, options, startup
    from yolov5_sparse_plugin.attach import doorways
    from yolov5_sparse_plugin.bench.engines import ENGINES
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.hosts import mends
    from yolov5_sparse_plugin.zoo import client

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    print(f"yolov5-sparse-plugin {__version__} on Python {sys.version.split()[0]}")
    for name in ("yolov5", "ultralytics", "torch", "sparseml", "sparsezoo", "onnx", "pluggy"):
        print(f"  {name:12} {version(name)}")
    if client.missing():
        print(f"  the vendor's zoo is left out: {client.missing()}")
    features = cpu.detect()
    print(f"CPU: {features}")
    for engine in ENGINES.values():
        state = engine.version() or "unknown version" if engine.installed() else f"not installed: {engine.pip}"
        print(f"  {engine.title:12} {state}")
    print(f"  {cpu.advice(features)}")
    chosen = options.resolve({})
    name = engines.chosen(chosen.engine, chosen.asked("engine"))
    other = "" if name == engines.NATIVE else "; native, this plugin's own, with --sparse-engine native"
    print(f"engine for recipes: {name}{other}")
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
    hooks = manager.create(chosen.hooks, blocked)
    print("hooks, in order of registration:")
    for name, plugin in hooks.list_name_plugin():
        summary = (plugin.__doc__ or "").strip().partition("\n")[0]  # a class's own, None of a file without one
        print(f"  {name:20} {'blocked' if plugin is None else summary}")
    here = startup.checkout_of("train", str(Path.cwd() / "train.py"))
    if here:
        print(f"git checkout here: {here}. Run its scripts with: yolov5-sparse run train.py …")
    if version("yolov5") == "not installed":
        if not here:
            print("host: none. Install one with: pip install 'yolov5-sparse-plugin[yolov5]'")
        return 0
    if off or not startup.installed():
        return 0
    print("doorways of the host:")
    import yolov5.export  # noqa: F401  attaches
    import yolov5.train  # noqa: F401

    for name in doorways.attached():
        print(f"  {name}")
    if mends.done():
        print("mended, because a library that YOLOv5 uses has moved on:")
    for reason in mends.done():
        print(f"  {reason}")
    return 0


def main() -> int:
    """Run the command; return its exit status. Errors that a user can cause are one sentence on stderr."""
    words = sys.argv[1:]
    if words[:2] == CHECK.split():  # a command of two words
        words = [CHECK, *words[2:]]
    arguments = build_parser().parse_args(words)
    if arguments.command == "run":
        return runner.main(arguments.words)
    try:
        commands = {"demo": demo, "bench": bench, "zoo": zoo, "status": status, "recipes": recipes, CHECK: recipe_check}
        with plainly():
            return commands[arguments.command](arguments)
    except KeyboardInterrupt:
        print("\nyolov5-sparse: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
