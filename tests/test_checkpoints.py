"""Every checkpoint that a run writes loads in train, val, detect and yolov5.load, with the plugin and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run_commands
from conftest import ALONE, call, clean_environment, command, results, yolov5_train, zeros

from yolov5_sparse_plugin.checkpoints import formats, quantizers, reading, writing
from yolov5_sparse_plugin.errors import CheckpointError

WITHOUT = {"YOLOV5_SPARSE_AUTOLOAD": "0", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
FILES = ("last.pt", "best.pt", "best_dense.pt", "best_pruned.pt", "best_pruned_quantized.pt", "epoch1.pt", "epoch4.pt")

# loads each file given, and prints what came out of it for one fixed picture
LOAD = """
import json, sys
import torch
import yolov5
out = {}
for file in sys.argv[1:]:
    model = yolov5.load(file, device="cpu")
    inner = model.model.model
    torch.manual_seed(0)
    with torch.no_grad():
        y = model.model(torch.rand(1, 3, 64, 64))
    y = y[0] if isinstance(y, (list, tuple)) else y
    out[file] = {"sum": y.double().sum().item(), "classes": inner.names,
                 "quantizers": sum("fake_quant" in type(m).__name__.lower() or "FakeQuantize" in type(m).__name__
                                   for m in inner.modules()),
                 "sparseml": "sparseml" in sys.modules}
print("RESULT" + json.dumps(out))
"""


def load_all(files, cwd, **env):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, files)],
        cwd=cwd,
        env=clean_environment(**env),
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[6:])


def test_all_load_with_the_plugin_and_the_quantized_ones_have_their_quantizers(finished, tmp_path):
    loaded = load_all([finished.weights / name for name in FILES], tmp_path)
    for name in FILES:
        result = loaded[str(finished.weights / name)]
        quantized = name in ("last.pt", "best.pt", "best_pruned_quantized.pt", "epoch4.pt")
        assert (result["quantizers"] > 100) == quantized, name
        assert list(result["classes"].values()) == ["disc", "box", "cross"]


def test_all_load_without_the_plugin_as_float_models(finished, tmp_path):
    loaded = load_all([finished.weights / name for name in FILES], tmp_path, **WITHOUT)
    for name in FILES:
        result = loaded[str(finished.weights / name)]
        assert result["quantizers"] == 0 and not result["sparseml"], name
        assert list(result["classes"].values()) == ["disc", "box", "cross"]


def test_a_plain_pickle_of_the_hosts_own_classes(finished):
    """No class of this plugin, of SparseML or of torch.ao in it, and no tensor of the plugin's in `model` and `ema`."""
    import pickletools
    import zipfile

    for name in FILES:
        with zipfile.ZipFile(finished.weights / name) as archive:
            data = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
        modules = {str(arg).split()[0] for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}
        assert not [m for m in modules if m.startswith(("sparseml", "yolov5_sparse_plugin", "torch.ao"))], modules
        assert "yolov5.models.yolo" in modules


def test_a_quantized_model_reloads_bit_by_bit(finished):
    ckpt = reading.read(finished.weights / "epoch4.pt")
    state = ckpt["sparse"]["state"]
    scales = [n for n in state if n.endswith("scale")]
    assert len(scales) > 100 and all(state[n].dtype == torch.float32 for n in scales)
    assert any((state[n].half().float() != state[n]).any() for n in scales), "FP16 would do: this test shows nothing"
    model = quantizers.quantized_model(ckpt)
    for again in (model, model.half(), model.float(), model.fuse()):
        loaded = again.state_dict()
        assert set(loaded) == set(state)
        assert all(torch.equal(loaded[n], state[n]) for n in state)


def test_scales_survive_each_of_upstreams_four_halvings(finished):
    """deepcopy().half() and strip_optimizer act on files; .half().float() and attempt_load().half() on modules."""
    import yolov5.models.experimental as experimental

    during = reading.read(finished.weights / "epoch4.pt")["sparse"]["state"]
    after = reading.read(finished.weights / "last.pt")["sparse"]["state"]
    assert all(torch.equal(during[n], after[n]) for n in during)
    model = experimental.attempt_load(finished.weights / "last.pt", device=torch.device("cpu"))
    assert all(torch.equal(model.half().float().state_dict()[n], after[n]) for n in after)
    copied = experimental.attempt_load(str(finished.weights / "last.pt"), device=torch.device("cpu")).half()
    assert all(torch.equal(copied.state_dict()[n], after[n]) for n in after)


def test_the_float_twin_has_the_weights_of_the_quantized_model(finished):
    ckpt = reading.read(finished.weights / "epoch4.pt")
    twin, state = ckpt["model"].state_dict(), ckpt["sparse"]["state"]
    assert torch.equal(twin["model.0.conv.weight"], state["model.0.conv.weight"].half())
    assert torch.equal(twin["model.0.bn.running_var"], state["model.0.bn.running_var"].half())
    assert zeros(twin["model.9.cv2.conv.weight"]) == pytest.approx(0.6, abs=1e-4)


def test_best_fitness_in_a_checkpoint_is_upstreams_plain_number(finished):
    ckpt = reading.read(finished.weights / "epoch4.pt")
    assert type(ckpt["best_fitness"]) is float
    assert reading.read(finished.weights / "epoch1.pt")["sparse"]["best_phase"] == "pruned"


def test_a_phase_that_was_written_as_its_place_is_read_by_its_name(finished, tmp_path):
    old = reading.read(finished.weights / "epoch1.pt")
    del old["sparse"]["best_phase"]
    for place, name in ((1, "pruned"), (3, "pruned_quantized"), (9, old["sparse"]["phase"])):
        torch.save({**old, "sparse": {**old["sparse"], "rank": place}}, tmp_path / "old.pt")
        assert reading.read(tmp_path / "old.pt")["sparse"]["best_phase"] == name


BOTH = [pytest.param({}, id="with"), pytest.param(WITHOUT, id="without", marks=ALONE)]


@pytest.mark.parametrize("env", BOTH)
def test_val_takes_a_quantized_checkpoint(finished, shapes, tmp_path, env):
    words = [command("yolov5"), "val", "--weights", finished.weights / "best.pt", "--data", shapes, "--img", 64]
    run = call([*words, "--device", "cpu", "--workers", 0], tmp_path, **env)
    assert "all         16" in run.output


def test_val_takes_a_relative_path_with_a_slash_offline(finished, shapes, tmp_path):
    (tmp_path / "weights").mkdir()
    os.symlink(finished.weights / "best_pruned.pt", tmp_path / "weights" / "best.pt")
    words = [command("yolov5"), "val", "--weights", "weights/best.pt", "--data", shapes, "--img", 64]
    run = call([*words, "--device", "cpu", "--workers", 0], tmp_path)
    assert "all         16" in run.output


@pytest.mark.parametrize("env", [{}, WITHOUT], ids=["with", "without"])
def test_detect_takes_a_quantized_checkpoint(finished, shapes, tmp_path, env):
    pictures = Path(shapes).parent / "images" / "val"
    words = [command("yolov5"), "detect", "--weights", finished.weights / "last.pt", "--source", pictures, "--img", 64]
    call([*words, "--device", "cpu", "--project", tmp_path / "detected"], tmp_path, **env)
    assert len(list((tmp_path / "detected").rglob("*.jpg"))) == 16


# validates, detects with and fine-tunes each file given, in the host's own functions
USE = """
from pathlib import Path
from yolov5 import detect, train, val
common = dict(imgsz=64, device="cpu", exist_ok=True)
for file in {files}:
    name = Path(file).stem
    print("FILE", name, flush=True)
    val.run({data!r}, weights=file, workers=0, plots=False, project="validated", name=name, **common)
    detect.run(weights=file, source={picture!r}, project="detected", name=name, **common)
    train.run(data={data!r}, weights=file, epochs=1, batch_size=32, workers=0, noplots=True, noautoanchor=True,
              project="trained", name=name, **common)
"""


@pytest.mark.parametrize("env", BOTH)
def test_every_checkpoint_validates_detects_and_fine_tunes(finished, shapes, tmp_path, env):
    picture = next((shapes.parent / "images" / "val").iterdir())
    files = [str(finished.weights / name) for name in FILES]
    code = USE.format(files=files, data=str(shapes), picture=str(picture))
    run = call([sys.executable, "-c", code], tmp_path, **env)
    parts = run.output.split("FILE ")[1:]
    assert [part.split()[0] for part in parts] == [Path(file).stem for file in files]
    for file, part in zip(files, parts):
        name = Path(file).stem
        assert "all         16" in part, name
        assert "Transferred 34" in part, name
        assert ("will become dense again" in part) == (not env and name != "best_dense"), name
        assert (tmp_path / "detected" / name / picture.name).is_file(), name
        assert (tmp_path / "trained" / name / "weights" / "last.pt").is_file(), name


def test_sparse_transfer_keeps_every_zero(finished, shapes, tmp_path):
    source = reading.read(finished.weights / "best_pruned.pt")
    run = yolov5_train(
        tmp_path,
        shapes,
        "--sparse-recipe",
        "transfer_pruned",
        "--sparse-recipe-args",
        "num_epochs=2,warmup_epochs=1",
        weights=finished.weights / "best_pruned.pt",
    )
    ckpt = reading.read(run.weights / "last.pt")
    assert ckpt["sparse"]["phase"] == "pruned" and results(run)["epoch"] == [0, 1]
    before, after = source["model"].state_dict(), ckpt["model"].state_dict()
    for name in ckpt["sparse"]["layers"]:
        assert torch.equal(before[name] == 0, after[name] == 0), name
    assert not torch.equal(before["model.1.conv.weight"], after["model.1.conv.weight"])


@pytest.mark.long
@pytest.mark.parametrize("patience", [1, 2])
def test_after_early_stopping_everything_loads(tmp_path, shapes, recipe, worsening, patience):
    """Whatever the epoch at which it stops: the predecessor wrote `epoch: -1` as soon as stopping was possible."""
    args = "num_epochs=8,pruning_end_epoch=1.5,quantization_start_epoch=2"
    words = ["--sparse-recipe", recipe, "--sparse-recipe-args", args, "--sparse-hooks", worsening]
    run = yolov5_train(tmp_path, shapes, *words, "--patience", patience, "--save-period", 1)
    files = sorted(run.weights.glob("*.pt"))
    assert len(results(run)["epoch"]) == 3 + patience  # the third is the first, and best, of the last phase
    for env in ({}, WITHOUT):
        assert len(load_all(files, tmp_path, **env)) == len(files)
    for file in run.weights.glob("epoch*.pt"):
        assert reading.read(file)["epoch"] == int(file.stem[5:])


def test_an_interrupted_write_leaves_the_previous_checkpoint(tmp_path):
    file = tmp_path / "last.pt"
    writing.save_atomically(torch.save, {"epoch": 1}, file)

    def interrupted(ckpt, stream):
        torch.save(ckpt, stream)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.save_atomically(interrupted, {"epoch": 2}, file)
    assert torch.load(file) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    file = tmp_path / "last.pt"
    file.write_bytes(b"the previous one")

    def full(ckpt, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device.*the previous one is still there"):
        writing.save_atomically(full, {}, file)
    assert file.read_bytes() == b"the previous one"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    file.unlink()
    with pytest.raises(CheckpointError, match="No space left on device.*there is no earlier one"):
        writing.save_atomically(full, {}, file)


def damaged(ckpt, kind):
    """Change a quantized checkpoint as a disk, a program or a hand may have done."""
    part = ckpt["sparse"]
    if kind == "a scale":
        part["state"]["model.0.conv.weight_quantizer.scale"][0] = float("nan")
    elif kind == "a scale of zero":
        part["state"]["model.0.conv.weight_quantizer.scale"][0] = 0.0
    elif kind == "a weight":
        ckpt["model"].state_dict()["model.1.conv.weight"][0, 0, 0, 0] = float("inf")
    elif kind == "no model":
        ckpt["model"] = None
    else:
        del part[kind]
    return ckpt


DAMAGES = {
    "a scale": r"model\.0\.conv\.weight_quantizer\.scale holds what is no scale",
    "a scale of zero": r"model\.0\.conv\.weight_quantizer\.scale holds what is no scale",
    "a weight": r"model\.1\.conv\.weight holds what is no number",
    "no model": "its model is missing",
    **{name: f"its {name} is missing" for name in ("state", "recipe", "phase", "sparsity", "epoch", "layers")},
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_checkpoint_with_a_damaged_part_is_refused(finished, tmp_path, kind):
    ckpt = damaged(reading.read(finished.weights / "best.pt"), kind)
    torch.save(ckpt, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=DAMAGES[kind]):
        reading.read(tmp_path / "best.pt")


def test_the_commands_say_in_a_sentence_what_a_file_is_instead_of_a_checkpoint(finished, shapes, tmp_path):
    whole = (finished.weights / "best.pt").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF  # in the middle of a tensor: torch reads it without a word
    torch.save(damaged(reading.read(finished.weights / "best.pt"), "state"), tmp_path / "partless.pt")
    for name, content in {"empty.pt": b"", "page.pt": b"<!doctype html>\n<html>", "flipped.pt": bytes(flipped)}.items():
        (tmp_path / name).write_bytes(content)
    said = {
        "empty.pt": "it is empty",
        "page.pt": "it is a web page",
        "flipped.pt": "the checksum of",
        "partless.pt": "its state is missing",
    }
    commands = [[c, "--weights", name, "--device", "cpu"] for name in said for c in ("val", "export")]
    commands = [words + (["--data", shapes] if words[0] == "val" else ["--include", "onnx"]) for words in commands]
    for words, (status, output) in zip(commands, run_commands(tmp_path, *commands)):
        lines = [line for line in output.splitlines() if line.startswith("yolov5-sparse: error: ")]
        assert status == 2 and len(lines) == 1 and said[words[2]] in lines[0], (words, output)
        assert "Traceback" not in output


def test_a_plain_checkpoint_that_mentions_this_project_is_a_plain_one(tmp_path):
    torch.save({"opt": {"save_dir": "/home/me/yolov5-sparse-plugin/runs/train/exp"}}, tmp_path / "plain.pt")
    assert not reading.is_sparse(tmp_path / "plain.pt")
    torch.save({"sparse": {"format": formats.FORMAT}}, tmp_path / "own.pt")
    assert reading.is_sparse(tmp_path / "own.pt")


def test_plain_runs_write_upstreams_own_checkpoint(plain):
    ckpt = torch.load(plain.weights / "last.pt", map_location="cpu", weights_only=False)
    assert "sparse" not in ckpt
    assert not [k for k in ckpt["opt"] if "sparse" in k]
    assert not reading.is_sparse(plain.weights / "last.pt")
    assert sorted(p.name for p in plain.weights.iterdir()) == ["best.pt", "last.pt"]
    assert "sparse" not in plain.output
