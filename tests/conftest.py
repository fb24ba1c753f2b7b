"""Shared fixtures: a small data set, the real commands, and training runs that many tests look at."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import warm
from filelock import FileLock
from zoo_server import STUB

REPOSITORY = Path(__file__).resolve().parent.parent
# for what YOLOv5 7.0 does by itself
ALONE = pytest.mark.skipif(
    not hasattr(np, "trapz"), reason="without the plugin YOLOv5 computes no mAP on numpy >= 2.4, which has no trapz"
)
# those that are installed here; every claim about a recipe at work holds on each
ENGINES = ["native"] + ["sparseml"] * (importlib.util.find_spec("sparseml") is not None)
DATA = Path(os.environ.get("YOLOV5_SPARSE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

# a run of 5 epochs: dense, pruned between 1 and 2, quantized from 3
RECIPE = """\
num_epochs: 5
pruning_end_epoch: 2.0
quantization_start_epoch: 3.0
final_sparsity: 0.6
modifiers:
  - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
  - !MagnitudePruningModifier
      params: __ALL_PRUNABLE__
      init_sparsity: 0.1
      final_sparsity: eval(final_sparsity)
      start_epoch: 1.0
      end_epoch: eval(pruning_end_epoch)
      update_frequency: 0.25
  - !QuantizationModifier
      start_epoch: eval(quantization_start_epoch)
      model_fuse_fn_name: no_fuse
      scheme:
        input_activations: {num_bits: 8, symmetric: false}
        weights: {num_bits: 8, symmetric: true, strategy: channel}
      ignore: [SiLU, Upsample, MaxPool2d, Concat, Detect, BatchNorm2d]
      strict: false
"""
# prunes all the way from the first batch to the end of the second epoch
PRUNE_TWO = """\
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 2.0}
  - !MagnitudePruningModifier
      params: __ALL_PRUNABLE__
      init_sparsity: 0.05
      final_sparsity: 0.7
      start_epoch: 0.0
      end_epoch: 2.0
      update_frequency: 0.1
"""
# hooks of a run that gets worse with every epoch, whatever it learned: where it stops early is certain then
WORSENING = """\
import numpy as np
from yolov5_sparse_plugin import hookimpl

@hookimpl
def sparse_seams(run):
    return {"fitness": lambda upstream: lambda results: upstream(np.full_like(results, 1 / (1 + run.completed)))}
"""


@dataclass
class Result:
    """What a command printed, and its exit status."""

    status: int
    output: str
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights"


SERVERS: list[warm.Warm] = []  # the one of this worker, with --warm
# one thread for each process: with two workers of two threads each, two cores are ten times slower
THREADS = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("YOLOV5_SPARSE_", "PYTEST_"))}
    kept.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    return {**kept, **THREADS, **extra}  # YOLOv5 changes OMP_NUM_THREADS in the process that imports it


def pytest_addoption(parser):
    parser.addoption("--warm", action="store_true", help="fork yolov5's commands from a process with torch in it")
    parser.addoption("--write-compatibility", action="store_true", help="write docs/compatibility.md anew")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Spread the suite over the cores, test by test; a run of single files, or with -n, is left as it was asked for."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if option.numprocesses is None and not all(".py" in word for word in config.args):
        option.numprocesses = "auto"
    if option.numprocesses and option.dist == "no" and option.maxschedchunk is None:
        option.maxschedchunk = 1  # in order: the fast ones first, and no worker is left with a queue


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One worker for each core that this process may use, none beside a single one; a worker needs 1.5 GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4) if cores > 1 else 0


def pytest_configure(config):
    """Keep YOLOv5 from looking for a font, and everybody from the network; before any test file imports it."""
    import matplotlib

    os.environ.update(THREADS)
    folder = Path(tempfile.mkdtemp(prefix="yolov5-config-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", folder / name)
    os.environ["YOLOV5_CONFIG_DIR"] = str(folder)
    os.environ["WANDB_MODE"] = "offline"  # upstream then leaves Weights & Biases alone
    # elsewhere than on Linux, forking what has imported torch may fail
    asked = config.getoption("--warm") and sys.platform == "linux"
    if asked and (hasattr(config, "workerinput") or not config.getoption("numprocesses", None)):
        SERVERS.append(warm.Warm(clean_environment()))
        config.add_cleanup(lambda: SERVERS.pop().close())


def pytest_collection_modifyitems(items):
    """Fast tests first; those that only read a shared run last, so that no worker is left with a long one."""
    items.sort(key=lambda item: turn(set(getattr(item, "fixturenames", ()))))


def turn(fixtures: set[str]) -> int:
    if "once" in fixtures and "vendor_zoo" not in fixtures:  # through another fixture; those of the zoo are long
        return 2
    return 1 if fixtures & {"shapes", "bccd", "vendor_zoo"} else 0


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The data.yaml of 32 training and 16 validation pictures of drawn shapes, 64 px."""
    from yolov5_sparse_plugin.demo import make_data

    return make_data(tmp_path_factory.mktemp("shapes"), size=64, counts=(32, 16))


@pytest.fixture(scope="session")
def bccd(tmp_path_factory) -> Path:
    """The data.yaml of a writable copy of the blood-cell data set."""
    if not (DATA / "bccd").is_dir():
        pytest.skip(f"no BCCD data at {DATA / 'bccd'}; set YOLOV5_SPARSE_TEST_DATA to the folder that holds bccd/")
    folder = tmp_path_factory.mktemp("bccd") / "bccd"
    shutil.copytree(DATA / "bccd", folder)
    text = (DATA / "bccd" / "bccd.yaml").read_text()
    data = folder.parent / "bccd.yaml"
    lines = [f"path: {folder}" if line.startswith("path:") else line for line in text.splitlines()]
    data.write_text("\n".join(lines) + "\n")
    return data


@pytest.fixture(scope="session")
def pruned():
    """A pruned YOLOv5n of three classes; tests copy it before they change it."""
    import fork

    return fork.model()


@pytest.fixture(scope="session")
def coco_weights() -> Path:
    """The official COCO checkpoint of YOLOv5n."""
    if not (DATA / "yolov5n.pt").is_file():
        pytest.skip(f"no yolov5n.pt at {DATA}; set YOLOV5_SPARSE_TEST_DATA to the folder that holds it")
    return DATA / "yolov5n.pt"


@pytest.fixture(scope="session")
def coco_images() -> Path:
    """A folder of photos of COCO."""
    folder = DATA / "coco256" / "images" / "val2017"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}; set YOLOV5_SPARSE_TEST_DATA to the folder that holds coco256/")
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="session")
def prune_two(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "prune_two.yaml"
    file.write_text(PRUNE_TWO)
    return file


@pytest.fixture(scope="session")
def worsening(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("hooks") / "worsening.py"
    file.write_text(WORSENING)
    return file


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size` (14m) on `folder`; skip where that is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def command(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def call(words: list[Any], cwd: Path, status: int | None = 0, cold: bool = False, **env: str) -> Result:
    """Run a command, its output captured; assert its exit status unless `status` is None.

    Args:
        cold: start it as users do, also with --warm.
    """
    words, env = [str(word) for word in words], clean_environment(**env)
    with tempfile.NamedTemporaryFile() as file:
        if SERVERS and not cold and words[0] == command("yolov5") and SERVERS[0].serves(env):
            returned = SERVERS[0].run(words, cwd, env, Path(file.name), timeout=600)
        else:
            more = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            returned = subprocess.run(words, cwd=cwd, env=env, timeout=600, **more).returncode
        output = Path(file.name).read_text().replace("\r", "\n")
    if status is not None:
        assert returned == status, output[-6000:]
    return Result(returned, output, cwd / "runs" / "exp")


def hyperparameters() -> str:
    """Return the path of upstream's default hyp.yaml; by itself it takes one relative to where it was imported."""
    folder = Path(importlib.util.find_spec("yolov5").origin).parent
    return str(folder / "data" / "hyps" / "hyp.scratch-low.yaml")


def train_words(data: Path, *more: Any, weights: Any = "", batch: int = 8, img: int = 64) -> list[Any]:
    """Return the words of a short `yolov5 train` on the CPU, from scratch unless `weights` says otherwise."""
    words = ["train", "--data", data, "--weights", weights, "--img", img, "--batch-size", batch, "--device", "cpu"]
    words += ["--workers", 0, "--noplots", "--noautoanchor", "--project", "runs", "--name", "exp", "--exist-ok"]
    return words + ([] if weights else ["--cfg", "yolov5n.yaml"]) + list(more)


def yolov5_train(
    cwd: Path, data: Path, *more: Any, status: int | None = 0, env: dict | None = None, cold: bool = False, **kw
) -> Result:
    """Run the real `yolov5 train`."""
    return call([command("yolov5"), *train_words(data, *more, **kw)], cwd, status, cold, **(env or {}))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Result]], Result]:
    """Make a run that many tests look at in one worker, whichever asks first; the others wait, and read it."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    root = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()

    def make(name: str, run: Callable[[Path], Result]) -> Result:
        note, folder = root / f"{name}.json", root / name
        with FileLock(f"{note}.lock"):
            if not note.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                result = run(folder)
                note.write_text(json.dumps([result.status, result.output, str(result.folder)]))
            status, output, made = json.loads(note.read_text())
        return Result(status, output, Path(made))

    return make


@pytest.fixture(scope="session")
def finished(once, shapes, recipe) -> Result:
    """A finished run through every phase, by the command as a user types it; --epochs is left to the recipe."""
    return once(
        "finished", lambda cwd: yolov5_train(cwd, shapes, "--sparse-recipe", recipe, "--save-period", "1", cold=True)
    )


@pytest.fixture(scope="session")
def exported(once, finished, shapes):
    """best.pt of the finished run, best_dense.pt beside it, exported by the command as a user types it."""

    def export(folder):
        for name in ("best.pt", "best_dense.pt"):
            shutil.copyfile(finished.weights / name, folder / name)
        words = ["export", "--weights", "best.pt", "--include", "onnx", "--imgsz", 64, "--data", shapes]
        run = call([command("yolov5"), *words], folder, cold=True)
        run.folder = folder
        return run

    run = once("exported", export)
    return run, run.folder


@pytest.fixture(scope="session")
def plain(once, shapes) -> Result:
    """A run of two epochs without any sparse option (for which upstream needs help on torch >= 2.6)."""
    return once("plain", lambda cwd: yolov5_train(cwd, shapes, "--epochs", 2, env=TRUST, cold=True))


def zoo_command(cwd: Path, *words, status: int | None = 0, **env):
    env = {"SPARSEZOO_MODELS_PATH": str(cwd / "cache"), **env}
    return call([command("yolov5-sparse"), "zoo", *words], cwd, status, **env)


@pytest.fixture(scope="session")
def packed(once, finished):
    """A zoo folder with the model of a finished run, packed by the command."""

    def pack(folder):
        weights = folder / "run" / "weights"
        weights.mkdir(parents=True)
        for file in finished.weights.glob("best*.pt"):
            shutil.copyfile(file, weights / file.name)
        export = [command("yolov5"), "export", "--weights", weights / "best.pt", "--include", "onnx", "--imgsz", 64]
        call([*export, "--sparse-report", "none"], folder)
        run = zoo_command(folder, "add", folder / "run", STUB, "--zoo", folder / "zoo")
        run.folder = folder / "zoo"
        return run

    return once("packed", pack)


@pytest.fixture
def said():
    """The lines that an export in this process says, as they come."""
    import yolov5.utils.general  # noqa: F401  configures the logger anew when it is imported

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("yolov5")
    level = logger.level
    logger.setLevel(logging.INFO)  # yolov5.load(verbose=False) lowers it for the whole process
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def export(weights, folder: Path, **keywords):
    """Export a copy of `weights` in `folder` by `from yolov5.export import run`; return the ONNX file.

    Without a report, which takes longer than the export, unless `sparse_report` says otherwise.
    """
    import yolov5.export

    folder.mkdir(exist_ok=True)
    file = folder / Path(weights).name
    if not file.exists():
        shutil.copyfile(weights, file)
    arguments = {"weights": str(file), "include": "onnx", "imgsz": 64, "sparse_report": "none"}
    yolov5.export.run(**{**arguments, **keywords})
    return file.with_suffix(".onnx")


def pytest_generate_tests(metafunc):
    """A test of `checkout` runs on each of them, see checkouts.py."""
    if "checkout" in metafunc.fixturenames:
        from checkouts import NAMES

        metafunc.parametrize("checkout", NAMES, indirect=True, scope="session")


@pytest.fixture(scope="session")
def checkout(once, request):
    """A git checkout of YOLOv5 that may be written to."""
    import checkouts

    def make(folder):
        checkouts.make(request.param, folder)
        return Result(0, "", folder)

    return checkouts.Checkout(request.param, once(f"checkout-{request.param}", make).folder)


TRUST = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def results(run: Result) -> dict[str, list[float]]:
    """Read results.csv: column -> values by epoch."""
    lines = [line.split(",") for line in (run.folder / "results.csv").read_text().splitlines()]
    return {name.strip(): [float(row[i]) for row in lines[1:]] for i, name in enumerate(lines[0])}


def zeros(tensor) -> float:
    return (tensor == 0).sum().item() / tensor.numel()
