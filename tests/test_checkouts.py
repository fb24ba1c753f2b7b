"""Git checkouts of ultralytics/yolov5 do by the runner what the PyPI package does by itself."""

from __future__ import annotations

import json
import os
import pickletools
import sys
import zipfile

import pytest
import torch
import yaml
from checkouts import OFFLINE
from conftest import ALONE, TRUST, call, command, results, train_words

from yolov5_sparse_plugin.checkpoints import quantizers, reading

pytestmark = pytest.mark.long  # the whole way through another host; its seams are tests/test_seams.py's
WITHOUT = {"YOLOV5_SPARSE_AUTOLOAD": "0", **TRUST}
PHASES = "num_epochs=3,pruning_end_epoch=1.5,quantization_start_epoch=2"
STUB = "zoo:yolov5-n-shapes-pruned60_quantized"


@pytest.fixture(scope="session")
def trained(once, checkout, shapes, recipe):
    """A run through every phase, one epoch each, whose recipe stands in yolov5-sparse.yaml."""

    def run(cwd):
        (cwd / "yolov5-sparse.yaml").write_text(f"recipe: {recipe}\n")
        words = ["--sparse-recipe-args", PHASES, "--save-period", 1]
        return checkout.run(cwd, "train.py", *train_words(shapes, *words)[1:])

    return once(f"trained-{checkout.name}", run)


@pytest.fixture(scope="session")
def exported(once, checkout, trained, shapes):
    """The best model of that run, exported."""

    def run(cwd):
        os.link(trained.weights / "best.pt", cwd / "best.pt")
        words = ["--weights", "best.pt", "--include", "onnx", "--img", 64, "--data", shapes]
        done = checkout.run(cwd, "export.py", *words)
        done.folder = cwd
        return done

    return once(f"exported-{checkout.name}", run)


def validate(checkout, cwd, weights, data, **kwargs):
    """Return the table of `val.py`: class -> images, labels, P, R, mAP50, mAP50-95."""
    words = ["--weights", weights, "--data", data, "--img", 64, "--device", "cpu", "--workers", 0, "--batch-size", 1]
    return table(checkout.run(cwd, "val.py", *words, **kwargs).output)


def table(output: str) -> dict[str, list[str]]:
    """Return the last table of validation in what a command printed."""
    rows = [line.split() for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 7 and row[0] in ("all", "disc", "box", "cross")}


# ------------------------------------------------------------------------------------------------------- fast ones


def test_help_offers_what_the_command_takes(checkout, tmp_path):
    for script, flag, others in (
        ("train.py", "--sparse-recipe RECIPE", "--sparse-target"),
        ("export.py", "--sparse-target ENGINE", "--sparse-recipe "),
    ):
        output = checkout.run(tmp_path, script, "--help").output
        assert f"usage: {script}" in output and flag in output and others not in output


def test_python_alone_never_trains_dense_what_should_be_sparse(checkout, tmp_path):
    """A flag, or the environment: what was typed is refused with what to type instead."""
    script, typed = checkout.root / "train.py", ["--epochs", 1]
    for words, env, asked in (
        (["--sparse-recipe", "pruned"], {}, "--sparse-recipe"),
        ([], {"YOLOV5_SPARSE_RECIPE": "pruned"}, "YOLOV5_SPARSE_RECIPE: pruned"),
    ):
        run = checkout.run(tmp_path, "train.py", *typed, *words, plugin=False, status=2, **env)
        line = " ".join(map(str, [script, *typed, *words]))
        assert f"error: {asked}: python alone runs {script} without the plugin. Type: python -m " in run.output
        assert f"yolov5_sparse_plugin {line}\n" in run.output and "Traceback" not in run.output


def test_python_alone_does_not_resume_a_sparse_run(checkout, trained):
    first = trained.weights / "epoch0.pt"
    for words, file in ((["--resume"], "exp/weights/last.pt"), ([f"--resume={first}"], first)):
        run = checkout.run(trained.folder.parent, "train.py", *words, plugin=False, status=2)
        assert f"--resume: {file} is of a sparse run: python alone" in run.output


def test_mistakes_end_in_a_sentence_and_a_status(checkout, tmp_path, shapes):
    zoo = {"YOLOV5_SPARSE_ZOO_SOURCES": "directory", "YOLOV5_SPARSE_ZOO": str(tmp_path)}
    run = checkout.run(tmp_path, "val.py", "--data", shapes, "--weights", "zoo:nobody-has-this", status=2, **zoo)
    assert "yolov5-sparse: error: " in run.output and "zoo:nobody-has-this" in run.output
    assert "Traceback" not in run.output


def test_other_scripts_pass_through_unharmed(checkout, tmp_path):
    found, expected = (checkout.run(tmp_path, "segment/train.py", "--help", plugin=p).output for p in (True, False))
    assert found == expected and "usage: train.py" in found


PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import train, val, export, detect, models.experimental, models.common
mark = "__yolov5_sparse_original__"
doors = (train.train, train.run, train.parse_opt, val.run, export.run, detect.run, models.experimental.attempt_load,
         models.common.DetectMultiBackend.__init__)
print("ATTACHED", [hasattr(door, mark) for door in doors])
import yolov5_sparse_plugin.attach.modules
yolov5_sparse_plugin.attach.modules.detach()
print("DETACHED", any(hasattr(door, mark) for door in (train.train, val.run, models.experimental.attempt_load)))
"""


def test_modules_that_are_imported_are_attached_to_and_detached(checkout, tmp_path):
    output = call([sys.executable, "-c", PROBE, checkout.root], tmp_path, **OFFLINE).output
    assert f"ATTACHED {[True] * 8}" in output and "DETACHED False" in output


def test_modules_of_these_names_that_are_somebody_elses_are_left_alone(tmp_path):
    (tmp_path / "models").mkdir()
    for file in ("train.py", "val.py", "models/common.py", "models/yolo.py", "models/experimental.py"):
        (tmp_path / file).write_text("def run(): ...\ndef attempt_load(): ...\ntrain = parse_opt = run\n")
    code = (
        "import sys, train, val, models.common, models.experimental; print([m for m in sys.modules "
        "if m.startswith('yolov5_sparse_plugin') or m == 'torch'], type(train.__loader__).__name__)"
    )
    output = call([sys.executable, "-c", code], tmp_path).output
    assert output.splitlines()[-1] == "['yolov5_sparse_plugin', 'yolov5_sparse_plugin.startup'] SourceFileLoader"


def test_status_names_the_checkout_it_is_started_in(checkout):
    output = call([command("yolov5-sparse"), "status"], checkout.root).output
    assert f"git checkout here: {checkout.root}" in output


# ----------------------------------------------------------------------------------------------------------- training


def test_a_run_goes_through_the_recipes_phases(trained):
    assert results(trained)["epoch"] == [0, 1, 2]
    assert results(trained)["sparse/phase"] == [0, 1, 3]
    assert results(trained)["sparse/sparsity"] == pytest.approx([0, 0.6, 0.6], abs=1e-4)
    names = {path.name for path in trained.weights.glob("best*.pt")}
    assert names == {"best.pt", "best_dense.pt", "best_pruned.pt", "best_pruned_quantized.pt"}
    assert yaml.safe_load((trained.folder / "opt.yaml").read_text())["epochs"] == 3
    assert "Checkpoints of this run" in trained.output


def test_checkpoints_are_made_of_the_checkouts_own_classes(trained):
    for file in trained.weights.glob("*.pt"):
        with zipfile.ZipFile(file) as archive:
            data = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
        modules = {str(arg).split()[0] for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}
        assert "models.yolo" in modules
        assert not [m for m in modules if m.startswith(("yolov5", "sparseml", "torch.ao"))], (file, modules)


def test_resume_goes_on_where_the_run_was(checkout, trained, tmp_path):
    """Interrupted before pruning: the other phases follow."""
    folder = tmp_path / "runs" / "exp"
    (folder / "weights").mkdir(parents=True)
    os.link(trained.weights / "epoch0.pt", folder / "weights" / "last.pt")
    text = (trained.folder / "opt.yaml").read_text()
    (folder / "opt.yaml").write_text(text.replace("save_dir: runs/exp", f"save_dir: {folder}"))
    run = checkout.run(tmp_path, "train.py", "--resume", folder / "weights" / "last.pt")
    assert "Resuming training" in run.output
    assert results(run)["epoch"] == [1, 2] and results(run)["sparse/phase"] == [1, 3]
    part = reading.read(folder / "weights" / "last.pt")["sparse"]
    assert part["sparsity"] == pytest.approx(0.6, abs=1e-4) and part["epoch"] == 3


@ALONE
def test_a_plain_run_has_the_numbers_of_one_without_the_plugin(checkout, shapes, tmp_path):
    files = []
    for folder, plugin, env in (("with", True, TRUST), ("without", False, WITHOUT)):
        (tmp_path / folder).mkdir()
        words = train_words(shapes, "--epochs", 1)[1:]
        run = checkout.run(tmp_path / folder, "train.py", *words, plugin=plugin, **env)
        files.append((run.folder / "results.csv").read_text())
    assert files[0] == files[1]


def test_torchrun_reaches_upstreams_own_check_for_gpus(checkout, shapes, recipe, tmp_path):
    """Without CUDA upstream refuses to train in several processes; the options were understood until then."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: upstream would not refuse")
    words = [command("torchrun"), "--standalone", "--nproc_per_node", 2, "-m", "yolov5_sparse_plugin"]
    words += [checkout.root / "train.py", *train_words(shapes, "--sparse-recipe", recipe)[1:]]
    assert "insufficient CUDA devices" in call(words, tmp_path, status=1, **OFFLINE).output


# --------------------------------------------------------------------------------------- what becomes of a checkpoint


def test_val_measures_the_quantized_model_also_by_python_alone(checkout, trained, shapes, tmp_path):
    found = validate(checkout, tmp_path, trained.weights / "best.pt", shapes)
    assert set(found) == {"all", "disc", "box", "cross"}
    assert validate(checkout, tmp_path, trained.weights / "best.pt", shapes, plugin=False) == found


def test_detect_takes_a_quantized_checkpoint(checkout, trained, shapes, tmp_path):
    words = ["--weights", trained.weights / "best.pt", "--source", shapes.parent / "images" / "val", "--img", 64]
    run = checkout.run(tmp_path, "detect.py", *words, "--device", "cpu", "--conf-thres", 0.001, "--project", "runs")
    assert len(list((tmp_path / "runs" / "exp").glob("*.jpg"))) == 16, run.output[-2000:]


def test_export_writes_a_verified_quantized_graph(exported):
    import onnx

    model = onnx.load(exported.folder / "best.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("DequantizeLinear") > 60 and len(model.graph.output) == 1
    assert model.opset_import[0].version == 17
    report = json.loads((exported.folder / "best.export.json").read_text())
    assert report["sparsity"] == pytest.approx(0.6, abs=1e-3) if "sparsity" in report else report
    assert (exported.folder / "best.report.html").exists()
    assert report["baseline"]["name"] == "its float twin" and report["accuracy"]["images"] == 16


def test_the_exported_graph_runs_in_val_without_the_plugin(checkout, exported, shapes, tmp_path):
    found = validate(checkout, tmp_path, exported.folder / "best.onnx", shapes, plugin=False, **WITHOUT)
    assert found["all"][0] == "16"


HUB = """
import sys
import torch
root, file, out = sys.argv[1:]
model = torch.hub.load(root, "custom", file, source="local", device="cpu", autoshape=False)
torch.manual_seed(0)
with torch.no_grad():
    y = model.eval()(torch.rand(1, 3, 64, 64))
torch.save({"state": model.model.state_dict(), "y": y[0] if isinstance(y, (list, tuple)) else y,
            "module": type(model.model).__module__}, out)
import numpy
detections = torch.hub.load(root, "custom", file, source="local", device="cpu")(numpy.zeros((64, 64, 3), numpy.uint8))
print("SHAPE", detections.xyxy[0].shape[1])
"""


def hub(checkout, cwd, file, **env):
    output = call([sys.executable, "-c", HUB, checkout.root, file, cwd / "out.pt"], cwd, **OFFLINE, **env).output
    assert "SHAPE 6" in output
    found = torch.load(cwd / "out.pt")
    assert found["module"] == "models.yolo"
    return found


def same(one, other):
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_hub_loads_a_quantized_checkpoint_bit_by_bit(checkout, trained, tmp_path):
    found = hub(checkout, tmp_path, trained.weights / "best.pt")
    ckpt = reading.read(trained.weights / "best.pt")
    same(found["state"], ckpt["sparse"]["state"])
    model = quantizers.quantized_model(ckpt)  # of the PyPI package's classes
    torch.manual_seed(0)
    with torch.no_grad():
        y = model(torch.rand(1, 3, 64, 64))[0]
    assert torch.equal(found["y"], y)


def test_the_hub_loads_the_float_twin_without_the_plugin(checkout, trained, tmp_path):
    found = hub(checkout, tmp_path, trained.weights / "best.pt", **WITHOUT)
    same(found["state"], reading.read(trained.weights / "best.pt")["model"].float().state_dict())


def test_a_checkout_reads_a_checkpoint_of_the_pypi_package(checkout, finished, tmp_path):
    found = hub(checkout, tmp_path, finished.weights / "best.pt")
    same(found["state"], reading.read(finished.weights / "best.pt")["sparse"]["state"])


def test_the_pypi_package_reads_a_checkpoint_of_a_checkout(trained):
    from yolov5.models.experimental import attempt_load

    model = attempt_load(trained.weights / "best.pt")
    assert type(model).__module__ == "yolov5.models.yolo"
    same(model.state_dict(), reading.read(trained.weights / "best.pt")["sparse"]["state"])


def test_a_plain_model_of_the_pypi_package_exports_with_one_output(checkout, plain, tmp_path):
    """As an object of the other classes it would be exported with four, without a word."""
    import onnx

    (tmp_path / "last.pt").write_bytes((plain.weights / "last.pt").read_bytes())
    checkout.run(tmp_path, "export.py", "--weights", "last.pt", "--include", "onnx", "--img", 64)
    assert len(onnx.load(tmp_path / "last.onnx").graph.output) == 1


def test_a_stub_of_a_zoo_folder_stands_for_weights_and_recipe(checkout, trained, shapes, tmp_path):
    zoo = tmp_path / "zoo"
    call([command("yolov5-sparse"), "zoo", "add", trained.folder, STUB, "--zoo", zoo], checkout.root, **OFFLINE)
    assert "all" in validate(checkout, tmp_path, STUB, shapes, YOLOV5_SPARSE_ZOO=str(zoo))
    asked = STUB + "?recipe_type=transfer"
    more = [
        "--sparse-recipe",
        asked,
        "--sparse-recipe-args",
        "num_epochs=2,warmup_epochs=0.5,quantization_start_epoch=1",
    ]
    words = train_words(shapes, *more, "--sparse-zoo", zoo, weights=asked)[1:]
    run = checkout.run(tmp_path, "train.py", *words)
    assert results(run)["sparse/phase"] == [1, 3]
    assert reading.read(run.weights / "last.pt")["sparse"]["sparsity"] == pytest.approx(0.6, abs=1e-4)
