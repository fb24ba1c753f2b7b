"""Ctrl-C, SIGTERM, SIGKILL and hooks that fail: the host is restored, the disk whole, and it is said what happened."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import call, command, yolov5_train

from yolov5_sparse_plugin import hookspecs
from yolov5_sparse_plugin.checkpoints import reading

SIGNALLING = """
import os
from yolov5_sparse_plugin import hookimpl

@hookimpl
def sparse_batch_start(run, epoch):
    if epoch == float(os.environ["AT"]):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
"""
HOOKS = [name for name in vars(hookspecs) if name.startswith("sparse_")]
EXPORTING = [name for name in HOOKS if name.startswith("sparse_export")]
# fails in the hooks that the environment names
FAILING = "import os\nfrom yolov5_sparse_plugin import hookimpl\n" + "\n".join(
    f"@hookimpl(tryfirst=True)\ndef {name}():\n    if '{name}' in os.environ['FAILS']: raise KeyError('as intended')\n"
    for name in HOOKS
)


def signalled(cwd, shapes, recipe, at: float, how: signal.Signals, status: int):
    (cwd / "signalling.py").write_text(SIGNALLING)
    words = ["--sparse-recipe", recipe, "--sparse-hooks", "signalling.py"]
    return yolov5_train(cwd, shapes, *words, status=status, env={"AT": str(at), "SIGNAL": str(int(how))})


def test_a_terminated_run_says_how_to_go_on(tmp_path, shapes, recipe):
    run = signalled(tmp_path, shapes, recipe, 1.25, signal.SIGTERM, 143)
    last = run.weights / "last.pt"
    assert f"terminated in epoch 2 of 5 (dense); {last.relative_to(tmp_path)} holds 1 complete epoch." in run.output
    assert "Traceback" not in run.output
    assert reading.read(last)["sparse"]["epoch"] == 1
    assert not list(run.weights.glob(".*"))
    env = {"AT": "3.25", "SIGNAL": str(int(signal.SIGTERM))}
    resumed = call(
        [command("yolov5"), "train", "--resume", last, "--sparse-hooks", "signalling.py"], tmp_path, 143, **env
    )
    assert "terminated in epoch 4 of 5 (pruned_quantized)" in resumed.output
    assert "holds 3 complete epochs." in resumed.output
    assert reading.read(last)["sparse"]["epoch"] == 3


def test_interrupted_in_its_first_epoch_a_run_says_that_there_is_nothing_to_go_on_from(tmp_path, shapes, recipe):
    run = signalled(tmp_path, shapes, recipe, 0.5, signal.SIGINT, 130)
    assert "interrupted in epoch 1 of 5 (dense); there is no checkpoint yet to go on from" in run.output
    assert "Traceback" not in run.output


SCANNING = """
import sys
from pathlib import Path
from yolov5.utils import dataloaders
from yolov5_sparse_plugin.training.interrupts import terminable

dataloaders.NUM_THREADS = 8  # so many workers look at the labels, and are told to end
images = str(Path(sys.argv[1]).parent / "images" / "train")
with terminable():
    for _ in range(10):
        for cache in Path(sys.argv[1]).parent.rglob("*.cache"):
            cache.unlink()
        dataloaders.LoadImagesAndLabels(images, 64, 8)
"""


def test_sigterm_ends_workers_that_were_just_started(tmp_path, shapes):
    """Their parent waits for them: a signal that is lost between two processes is a run that hangs."""
    data = shutil.copytree(shapes.parent, tmp_path / "shapes") / shapes.name
    output = call([sys.executable, "-c", SCANNING, data], tmp_path).output
    assert "Traceback" not in output and "Terminated" not in output


def test_a_failing_hook_is_named_and_leaves_the_host_as_it_was(tmp_path, shapes, finished):
    """Every hook of the contract, one after the other in one process."""
    recipe = "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
    recipe += "  - !ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "failing.py").write_text(FAILING)
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "best.pt")  # its export stands beside it
    code = f"""
        import json, os, signal
        import yolov5.train as t, yolov5.export as e
        modules = {{"train": t, "export": e}}
        before = {{name: dict(vars(module)) for name, module in modules.items()}}
        train = dict(data={str(shapes)!r}, weights={str(finished.weights / "best_pruned.pt")!r}, imgsz=64,
                     batch_size=16, device="cpu", workers=0, noplots=True, noautoanchor=True,
                     project="runs", exist_ok=True, sparse_recipe="recipe.yaml", sparse_hooks="failing.py")
        export = dict(weights="best.pt", imgsz=64, include=["onnx"],
                      sparse_hooks="failing.py")
        said = {{}}
        def attempt(name, call):
            os.environ["FAILS"] = name
            try:
                call()
                said[name] = "nothing"
            except BaseException as error:
                said[name] = f"{{type(error).__name__}} {{error}}"
            changed = [n for m, module in modules.items() for n in before[m] if vars(module)[n] is not before[m][n]]
            callbacks = t.main.__yolov5_sparse_original__.__defaults__[0]._callbacks
            changed += [a["name"] for h in callbacks.values() for a in h]
            changed += [] if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else ["SIGTERM"]
            said[name] += f" {{changed}}"
        for name in {HOOKS!r}:
            exporting = name in {EXPORTING!r}
            attempt(name, lambda: e.run(**export) if exporting else t.run(**train))
        attempt("sparse_model_built and sparse_run_end", lambda: t.run(**train))
        print("SAID" + json.dumps(said))
    """
    env = {"FAILS": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    run = call([sys.executable, "-c", textwrap.dedent(code)], tmp_path, **env)
    said = json.loads(next(line for line in run.output.splitlines() if line.startswith("SAID"))[4:])
    for name in HOOKS:
        assert said[name] == f"PluginError KeyError in hook {name} of failing: 'as intended' []", name
    assert "PluginError KeyError in hook sparse_model_built" in said["sparse_model_built and sparse_run_end"]
    assert "WARNING" in run.output and "KeyError in hook sparse_run_end of failing: 'as intended'" in run.output


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path):
    """A short form of what the script does; the untouched run is one of its own."""
    script = Path(__file__).parent / "stress" / "kill_and_resume.py"
    run = call([sys.executable, script, "--kills", 3, "--seed", 1, "--keep", tmp_path / "runs"], tmp_path)
    assert "3 kills survived" in run.output
