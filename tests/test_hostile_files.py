"""No file that somebody else wrote runs code: each road by which one comes, with each kind of it; a witness tells."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import shutil
import subprocess
import zipfile
from copy import deepcopy

import fork
import pytest
import torch
import yaml
from commands import run_commands
from conftest import call, command, train_words
from yolov5.models import common

from hooks import sparse_checkpoints
from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.checkpoints import inert, legacy, quantizers, reading, unpickling
from yolov5_sparse_plugin.errors import CheckpointError, OptionError, RecipeError
from yolov5_sparse_plugin.recipes_io import read


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.fixture
def witness(tmp_path):
    """A file that hostile code would create."""
    return tmp_path / "executed"


def touching(witness):
    """Return the Python expression that creates the witness."""
    return f"__import__('pathlib').Path({str(witness)!r}).touch()"


# ------------------------------------------------------------------------------------------------------------- recipes


def evil_cfg(witness):
    """Return a model's description, a string of which YOLOv5's parse_model evaluates."""
    row = [-1, 1, touching(witness), []]
    return {"nc": 1, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[1, 2]], "backbone": [row], "head": []}


def quantizing(**fields):
    lines = [f"      {name}: {json.dumps(value)}\n" for name, value in fields.items()]
    return "modifiers:\n  - !QuantizationModifier\n      start_epoch: 0.0\n" + "".join(lines)


def recipe_of_kind(kind, witness, folder):
    """Return a recipe's text that would run code, or reach where it could."""
    arguments = {"cfg": evil_cfg(witness), "ch": 3}
    fuse = quantizing(model_fuse_fn_name="__class__", model_fuse_fn_kwargs=arguments)
    scheme = {"weights": {"num_bits": 8, "kwargs": {"observer": touching(witness)}}}
    if kind == "path":  # SparseML opens a text without line breaks
        (folder / "evil.yaml").write_text(fuse)
        return str(folder / "evil.yaml")
    return {
        "fuse": fuse,
        "legacy fuse": quantizing(submodules=["model"], model_fuse_fn_name="__class__", model_fuse_fn_kwargs=arguments),
        "arguments": quantizing(model_fuse_fn_kwargs=arguments),
        "scheme": quantizing(model_fuse_fn_name="no_fuse", scheme=scheme),
        "override": quantizing(model_fuse_fn_name="no_fuse", scheme_overrides={"Conv2d": scheme}),
        "qconfig": quantizing(submodules=["model"], weight_qconfig_kwargs={"observer": touching(witness)}),
        # SparseML rewrites a recipe's text: what is a key of a plain mapping for YAML becomes a modifier
        "smuggled": "modifiers:\n  - OBJECT.QuantizationModifier: "
        + json.dumps({"model_fuse_fn_name": "__class__", "model_fuse_fn_kwargs": arguments}),
        "tag": f"modifiers:\n  - !!python/object/apply:eval [{touching(witness)!r}]\n",
        "stub": "zoo:yolov5-n-mine-pruned60_quantized",
    }[kind]


RECIPES = ("fuse", "legacy fuse", "arguments", "scheme", "override", "qconfig", "smuggled", "tag", "path", "stub")


@pytest.mark.parametrize("kind", ["fuse", "legacy fuse"])
def test_the_hostile_recipes_are_hostile(tmp_path, witness, kind, monkeypatch):
    """SparseML alone runs them."""
    from sparseml.pytorch.optim import ScheduledModifierManager

    monkeypatch.chdir(tmp_path)
    manager = ScheduledModifierManager.from_yaml(recipe_of_kind(kind, witness, tmp_path))
    with pytest.raises(BaseException):  # noqa: B017  the model that it builds is none
        manager.apply_structure(fork.model(sparsity=0).train(), math.inf)
    assert witness.exists()


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_is_typed(tmp_path, witness, kind):
    from yolov5_sparse_plugin.engine import engines

    text = recipe_of_kind(kind, witness, tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError):
        engines.load(read(str(file)))
    assert not witness.exists()


@pytest.fixture(scope="module")
def quantized(finished):
    """A checkpoint of this plugin, quantized, as a dict; tests change its recipe."""
    return unpickling.load(finished.weights / "best.pt")


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_inside_a_checkpoint_of_ours(tmp_path, witness, kind, quantized):
    ckpt = {**quantized, "sparse": {**quantized["sparse"], "recipe": recipe_of_kind(kind, witness, tmp_path)}}
    torch.save(ckpt, tmp_path / "model.pt")
    with pytest.raises((RecipeError, CheckpointError)):
        quantizers.quantized_model(reading.read(tmp_path / "model.pt"))
    assert not witness.exists()


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_inside_a_checkpoint_of_the_fork(tmp_path, witness, kind):
    """Its quantizers are left out then, and a warning says why."""
    model = fork.model(sparsity=0)
    state = {**fork.state(model), "model.0.conv.quant.activation_post_process.zero_point": torch.zeros(1)}
    ckpt = fork.checkpoint(model, model=state, checkpoint_recipe=recipe_of_kind(kind, witness, tmp_path))
    torch.save(ckpt, tmp_path / "model.pt")
    read = reading.read(tmp_path / "model.pt")
    assert "state" not in read["sparse"] and not witness.exists()


def test_the_commands_refuse_a_hostile_recipe_by_each_road(tmp_path, witness, quantized, shapes, finished):
    text = recipe_of_kind("fuse", witness, tmp_path)
    (tmp_path / "evil.yaml").write_text(text)
    run = tmp_path / "exp"
    (run / "weights").mkdir(parents=True)
    for name in ("model.pt", "exp/weights/last.pt"):
        torch.save({**deepcopy(quantized), "sparse": {**quantized["sparse"], "recipe": text}}, tmp_path / name)
    (run / "opt.yaml").write_text((finished.folder / "opt.yaml").read_text())
    cpu, data = ["--device", "cpu", "--img", 64], ["--data", shapes]
    commands = [
        ["train", "--weights", finished.weights / "best_dense.pt", *data, *cpu, "--sparse-recipe", "evil.yaml"],
        ["train", "--resume", run / "weights" / "last.pt"],
        ["val", "--weights", "model.pt", *data, *cpu],
        ["detect", "--weights", "model.pt", "--source", shapes.parent / "images" / "val", *cpu],
        ["export", "--weights", "model.pt", "--include", "onnx", *cpu],
        ["export", "--weights", finished.weights / "best_dense.pt", "--include", "onnx", *data, *cpu]
        + ["--sparse-one-shot", "evil.yaml"],
    ]
    for words, (status, output) in zip(commands, run_commands(tmp_path, *commands)):
        said = [line for line in output.splitlines() if line.startswith("yolov5-sparse: error: ")]
        assert status == 2 and len(said) == 1 and "model_fuse_fn_kwargs has no key 'cfg'" in said[0], (words, output)
        assert "Traceback" not in output
    assert not witness.exists()


# ------------------------------------------------------------------------------- what a checkpoint says of its model


def telling(witness):
    """Return a layer whose `repr` is a call, with the author's expression for an argument."""
    layer = torch.nn.LeakyReLU()
    layer.negative_slope = f"{touching(witness)})#"  # the rest of the line is a comment then
    return layer


def test_a_layer_among_the_names_is_hostile(witness):
    """The text of `names` is what `export` writes into an ONNX file, and `val` and `detect` evaluate."""
    with pytest.raises(SyntaxError):
        eval(str({0: telling(witness)}), dict(vars(torch.nn)))
    eval(str({0: telling(witness)}).replace("#)", ""), dict(vars(torch.nn)))
    assert witness.exists()


PLACES = ("names", "stride", "nc", "anchors", "hyp", "yaml")


@pytest.mark.parametrize("how", ["an attribute", "a part", "beside a state dict"])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_number_and_no_string_is_refused(tmp_path, witness, name, how):
    model = fork.model(sparsity=0)
    if how == "beside a state dict":
        ckpt = fork.checkpoint(model, **{name: {0: telling(witness)}})
    else:
        vars(model).pop(name, None)
        if how == "an attribute":
            vars(model)[name] = [telling(witness)]
        else:
            model._modules[name] = telling(witness)
        ckpt = {"model": model, "ema": None}
    torch.save(ckpt, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"(holds a|keeps) LeakyReLU,? where only numbers"):
        legacy.readable(None)(tmp_path / "model.pt")  # what an export, and a sparse run, read plain checkpoints with
    if how != "beside a state dict":
        return
    with pytest.raises(CheckpointError, match="keeps LeakyReLU where only numbers"):
        reading.read(tmp_path / "model.pt")


@pytest.mark.parametrize("own", [True, False], ids=["of this plugin", "plain"])
@pytest.mark.parametrize(
    "names",
    [
        "(open('{witness}', 'w'), {0: 'a'})[1]",  # as a text it is the very expression that is evaluated
        {0: torch.ones(1)},
        {"0": "disc"},
        [float("inf")],
        {0: "/tmp/{witness}"},  # detect --save-crop makes folders of them
        ["../../other"],
    ],
)
def test_names_of_classes_are_names(tmp_path, finished, names, own):
    ckpt = unpickling.load(finished.weights / "best_dense.pt")
    ckpt["model"].names = names
    if not own:
        del ckpt["sparse"]
    torch.save(ckpt, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="names in the checkpoint (are to be one text|has .* a path that leads)"):
        (reading.read if own else legacy.readable(None))(tmp_path / "model.pt")


@pytest.mark.parametrize("names", [{0: "tv/monitor", 1: "日本", 2: "it's"}, ["a", "b: c", "{}", True, 7, None]])
def test_names_of_any_script_stay(tmp_path, finished, names):
    ckpt = unpickling.load(finished.weights / "best_dense.pt")
    ckpt["model"].names = names
    torch.save(ckpt, tmp_path / "model.pt")
    assert reading.read(tmp_path / "model.pt")["model"].names == names


def test_numbers_of_numpy_become_plain(tmp_path):
    import numpy as np

    model = fork.model(sparsity=0)
    model.names, model.hyp = [np.str_("disc"), "box", "cross"], {"lr0": np.float64(0.01)}
    torch.save({"model": model, "ema": None}, tmp_path / "model.pt")
    read = legacy.readable(None)(tmp_path / "model.pt")["model"]
    assert [type(name) for name in read.names] == [str] * 3 and type(read.hyp["lr0"]) is float


# ---------------------------------------------------------------------------------------- files that name code to run


def evil_hooks(witness, folder):
    file = folder / "evil.py"
    file.write_text(touching(witness) + "\n")
    return file


@pytest.fixture
def interrupted(tmp_path, finished):
    """A run's folder that came with somebody's model: last.pt is of an unfinished run, opt.yaml is theirs."""
    (tmp_path / "exp" / "weights").mkdir(parents=True)
    (tmp_path / "exp" / "weights" / "last.pt").write_bytes((finished.weights / "epoch3.pt").read_bytes())
    (tmp_path / "exp" / "opt.yaml").write_text((finished.folder / "opt.yaml").read_text())
    return tmp_path / "exp"


def test_a_resumed_run_takes_no_code_from_its_options(tmp_path, witness, interrupted):
    """The line to type, where it is one's own, is named."""
    hooks, theirs = evil_hooks(witness, tmp_path), yaml.safe_load((interrupted / "opt.yaml").read_text())
    named = {
        f"add --sparse-hooks {hooks}": ("hooks", [str(hooks)]),
        "add --sparse-trust-pickle;": ("trust_pickle", True),
    }
    commands = []
    for name, value in named.values():
        shutil.copytree(interrupted, tmp_path / name)
        (tmp_path / name / "opt.yaml").write_text(yaml.safe_dump({**theirs, f"sparse_{name}": value}))
        commands.append(["train", "--resume", tmp_path / name / "weights" / "last.pt"])
    for line, (status, output) in zip(named, run_commands(tmp_path, *commands)):
        assert status == 2 and line in output and "a file that came with a model cannot let code run" in output
    assert not witness.exists()


def test_a_command_takes_no_code_from_the_current_folder(tmp_path, witness, finished, shapes):
    """Somebody's model may have been unpacked there, with a yolov5-sparse.yaml beside it."""
    hooks, config = evil_hooks(witness, tmp_path), tmp_path / "yolov5-sparse.yaml"
    config.write_text("trust_pickle: true\n")
    with pytest.raises(OptionError, match="Type --sparse-trust-pickle, or say that the file is yours"):
        options.resolve({}, environ={}, cwd=tmp_path)
    config.write_text(f"hooks: {hooks}\n")
    cpu, data = ["--device", "cpu", "--img", 64], ["--data", shapes]
    commands = [
        ["train", "--weights", finished.weights / "best_dense.pt", *data, *cpu],
        ["val", "--weights", finished.weights / "best.pt", *data, *cpu],
        ["export", "--weights", finished.weights / "best.pt", "--include", "onnx", *cpu],
    ]
    line = f"Type --sparse-hooks {hooks}, or say that the file is yours: YOLOV5_SPARSE_CONFIG={config}"
    for status, output in run_commands(tmp_path, *commands):
        assert status == 2 and line in output
    assert line in call([command("yolov5-sparse"), "status"], tmp_path, status=2).output and not witness.exists()
    call([command("yolov5-sparse"), "status"], tmp_path, YOLOV5_SPARSE_CONFIG=str(config))
    assert witness.exists(), "a file that the user names is the user's: this test shows nothing without it"


def test_a_run_without_its_options_is_read_with_care(tmp_path, witness, interrupted, finished):
    """Upstream reads them from the checkpoint, with a bare torch.load, which runs code before torch 2.6."""
    last = interrupted / "weights" / "last.pt"
    (interrupted / "opt.yaml").unlink()
    ckpt = unpickling.load(last)
    ckpt["opt"] = {**ckpt["opt"], "name": Calls(eval, touching(witness))}
    torch.save(ckpt, last)
    assert reading.is_sparse(last)
    bare = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # what torch did before
    ((status, output),) = run_commands(tmp_path, ["train", "--resume", last], **bare)
    assert status == 2 and "wants to call builtins.eval" in output and not witness.exists()
    torch.load(last, weights_only=False)
    assert witness.exists()


def test_a_run_that_lost_its_options_goes_on(tmp_path, interrupted):
    (interrupted / "opt.yaml").unlink()
    run = call([command("yolov5"), "train", "--resume", interrupted / "weights" / "last.pt"], tmp_path)
    assert "epoch 5/5" in run.output


def test_what_stands_beside_a_resumed_run_is_stripped_with_care(tmp_path, witness, finished, monkeypatch):
    """Upstream strips best.pt when a run ends, which may have written none."""
    from types import SimpleNamespace

    from yolov5.utils import general

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as while a run lasts
    (strip,) = (seams["strip"] for seams in [sparse_checkpoints.sparse_seams(run=SimpleNamespace())])
    plain = unpickling.load(finished.weights / "best_dense.pt")
    del plain["sparse"]
    torch.save({**plain, "updates": Calls(eval, touching(witness))}, tmp_path / "best.pt")
    assert not reading.is_sparse(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="wants to call builtins.eval"):
        strip(general.strip_optimizer)(tmp_path / "best.pt")
    assert not witness.exists()
    torch.save({**plain, "updates": 3}, tmp_path / "best.pt")
    strip(general.strip_optimizer)(tmp_path / "best.pt")
    assert unpickling.load(tmp_path / "best.pt")["updates"] is None


def test_segmentation_reads_what_came_by_stub_with_care(tmp_path, monkeypatch, shapes):
    import yolov5.segment.train

    stub = "zoo:cv/detection/yolov5-n/pytorch/ultralytics/shapes/evil-none"
    folder = tmp_path / "zoo" / stub[len("zoo:") :] / "training"
    folder.mkdir(parents=True)
    shutil.copyfile(hostile(tmp_path, "os.system"), folder / "model.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what torch did before 2.6
    monkeypatch.setenv("YOLOV5_SPARSE_ZOO", str(tmp_path / "zoo"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="wants to call os.system"):
        yolov5.segment.train.run(data=str(shapes), weights=stub, device="cpu", imgsz=64, batch_size=2)
    assert not canary(tmp_path).exists()


def test_no_command_imports_from_the_current_folder(tmp_path, witness, exported):
    """Not even one that starts other processes, or that says which checkout stands there."""
    for name in ("numpy", "onnx", "pandas", "requests", "json", "tempfile"):
        (tmp_path / f"{name}.py").write_text(touching(witness))
    for mark in ("hubconf.py", "models/yolo.py", "utils/general.py", "train.py"):
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).write_text(touching(witness))
    run = call([command("yolov5-sparse"), "status"], tmp_path)
    assert f"git checkout here: {tmp_path}" in run.output
    model = exported[1] / "best.onnx"
    call([command("yolov5-sparse"), "bench", model, "--rounds", 1, "--threads", 1, "--engine", "onnxruntime"], tmp_path)
    words = ["zoo", "get", "zoo:yolov5-n-shapes-none", "--sources", "vendor"]
    run = call([command("yolov5-sparse"), *words], tmp_path, status=2, NO_PROXY="*")
    assert "no source has" in run.output and not witness.exists()


# -------------------------------------------------------------------------------------- programs that look like layers


@pytest.mark.parametrize(
    "name",
    [
        "torchvision.models.feature_extraction.DualGraphModule",
        "torch.fx.graph_module.GraphModule",
        "torch.jit._script.RecursiveScriptModule",
        "torch.jit._script.ScriptModule",
        "torch.nn.modules.lazy.LazyModuleMixin",
        "torchvision.models.detection.mask_rcnn.MaskRCNN",
        "torch.nn.modules.module.Module.__init__",
    ],
)
def test_a_class_that_is_not_listed_is_no_layer(name):
    module, _, cls = name.rpartition(".")
    assert unpickling.allowed(module, cls) is None


def test_a_program_of_the_hosts_own_would_be_none_either():
    """A fork of YOLOv5 may have any class in models/common.py."""
    from yolov5.models import common

    cls = type("Traced", (torch.fx.GraphModule,), {"__module__": common.__name__})
    common.Traced = cls
    try:
        assert unpickling.allowed("models.common", "Traced") is None
        assert unpickling.allowed("models.common", "Conv") is not None
    finally:
        del common.Traced


# --------------------------------------------------------------------------------------------- pickles that call


def canary(tmp_path):
    return tmp_path / "executed"


def hostile(tmp_path, name, **how):
    """Write a checkpoint that creates the canary when it is loaded by plain `torch.load`, or when it is used."""
    touch = f"touch {canary(tmp_path)}"
    small = fork.model(sparsity=0)
    ckpt = fork.checkpoint(small)
    if name == "os.system":
        ckpt["best_fitness"] = Calls(os.system, touch)
    elif name == "subprocess":
        ckpt["hyp"] = Calls(subprocess.call, touch.split())
    elif name == "eval":
        ckpt["nc"] = Calls(eval, f"__import__('os').system({touch!r})")
    elif name == "getattr":
        ckpt["date"] = Calls(getattr, torch.nn.Module, "__init__")
    elif name == "constructor":  # YOLOv5 runs strings of a model's YAML as Python
        description = {**ckpt["yaml"], "activation": f"__import__('os').system({touch!r})"}
        ckpt["model"] = Calls(type(small), description)
    elif name == "lists":
        ckpt["names"] = Calls(torch.load, str(tmp_path / "other.pt"))
    file = tmp_path / "hostile.pt"
    torch.save(ckpt, file, **how)
    return file


NAMES = {
    "os.system": "wants to call os.system,",
    "subprocess": r"wants to call (subprocess|commands)\.call,",  # protocol 2 has the name of Python 2
    "eval": "wants to call builtins.eval,",
    "getattr": "takes '__init__' from an object of",
    "constructor": r"calls DetectionModel\(…\)",
    "lists": r"wants to call torch\.serialization\.load,",
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_that_calls_something_is_refused_by_name(tmp_path, name, protocol, zipped):
    file = hostile(tmp_path, name, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    legacy.is_legacy(file)
    with pytest.raises(CheckpointError, match=NAMES[name]):
        unpickling.load(file)
    assert not canary(tmp_path).exists()


def test_the_hostile_files_are_hostile(tmp_path):
    torch.load(hostile(tmp_path, "os.system"), weights_only=False)
    assert canary(tmp_path).exists()


def test_a_dotted_name_does_not_escape(tmp_path):
    """Protocol 4 looks `nn.modules.module.os.system` up attribute by attribute, from a module that is allowed."""
    touch = f"touch {canary(tmp_path)}"
    for module, name in (
        ("torch", "serialization.os.system"),
        ("torch.nn.modules.module", "functools.os.system"),
        ("models.common", "contextlib.os.system"),
        ("torch._utils", "torch.os.system"),
    ):
        code = b"\x80\x04" + b"\x8c" + bytes([len(module)]) + module.encode()
        code += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93"
        code += b"\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."
        machine = inert.machine(lambda *found: unpickling.look_up("file.pt", *found))
        with pytest.raises(CheckpointError, match=f"wants to call {module}.{name}"):
            machine.load(io.BytesIO(code))
    assert not canary(tmp_path).exists()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("activation", "__import__('os').system('{touch}')", "for an activation"),
        ("activation", "nn.ReLU(__import__('os').system('{touch}'))", "for an activation"),
        ("act", "__import__('os').system('{touch}')", "for an activation"),
        ("head", [[-1, 1, "__import__('os').system('{touch}')", []]], "for a layer, which this YOLOv5 does not know"),
        ("head", [[-1, 1, "DetectMultiBackend", ["{touch}"]]], "for a layer, which this YOLOv5 does not know"),
        ("head", [[-1, 1, "Conv", ["__import__('os').system('{touch}')"]]], "for an argument of Conv"),
        ("head", [[-1, 1e9, "Conv", [64]]], "layers of Conv"),
        ("head", [[-1, 1, "Conv", ["ｅｘｉｔ"]]], "for an argument of Conv"),  # which Python reads as exit
        (
            "head",
            [[-1, 1, "Conv", ["'\"{touch}\"'"]]],
            "for an argument of Conv",
        ),  # evaluated twice, where shared
        ("head", [[-1, 1, "Conv", ["if"]]], "for an argument of Conv"),
        ("head", [[-1, 1, "Conv", ["layers"]]], "for an argument of Conv"),  # which parse_model() has
        ("head", [[-1, 1, "Conv", ["args"]]], "for an argument of Conv"),
        ("head", [[-1, 1, "Conv", [10**9]]], "for an argument of Conv"),
        ("anchors", 30_000_000, "has no numbers for anchors"),
        ("anchors", [["{touch}"]], "has no numbers for anchors"),
        ("ch", 10**7, "for ch"),
        ("nc", 10**9, "for nc"),
        ("width_multiple", 1e9, "for width_multiple"),
        ("nc", 10**9, "for nc"),
        ("backbone", None, "missing or incomplete"),
    ],
)
def test_a_models_description_runs_no_code_and_builds_nothing_huge(tmp_path, pruned, key, value, message):
    """Tensors and strings only, which torch's `weights_only=True` lets through."""
    text = json.dumps(value).replace("{touch}", f"touch {canary(tmp_path)}")
    ckpt = fork.checkpoint(pruned)
    if value is None:
        del ckpt["yaml"][key]
    else:
        ckpt["yaml"][key] = json.loads(text)
    with pytest.raises(CheckpointError, match=message):
        reading.read(fork.saved(tmp_path, ckpt))
    model = deepcopy(pruned)
    model.yaml = ckpt["yaml"]
    with pytest.raises(CheckpointError, match=message):
        reading.read(fork.saved(tmp_path, {**ckpt, "model": model}))
    assert not canary(tmp_path).exists()


@pytest.mark.parametrize("head", [[], [[99, 1, "Conv", [64]]]])
def test_a_description_of_no_model_is_said_to_be_none(tmp_path, pruned, head):
    ckpt = fork.checkpoint(pruned)
    ckpt["yaml"]["head"] = head
    with pytest.raises(CheckpointError, match="it is damaged"):
        reading.read(fork.saved(tmp_path, ckpt))


def test_a_description_is_no_path_of_a_file(tmp_path, pruned):
    """YOLOv5 would open it, and run the strings in it."""
    model = deepcopy(pruned)
    model.yaml = str(fork.write_yaml(tmp_path / "evil.yaml", {"activation": "exit()"}))
    with pytest.raises(CheckpointError, match="the model's description in the checkpoint is missing or incomplete"):
        reading.read(fork.saved(tmp_path, fork.checkpoint(pruned, model=model)))


def test_a_pickle_cannot_change_what_it_is_given(tmp_path):
    """`BUILD` sets attributes of any object, classes and functions included."""
    for module, name in (("torch._utils", "_rebuild_parameter"), ("pathlib", "PosixPath"), ("models.common", "Conv")):
        # push the object, then ({}, {"changed": 1}), then BUILD
        code = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"}}X\x07\x00\x00\x00changedK\x01s\x86b."
        machine = inert.machine(lambda *found: unpickling.look_up("file.pt", *found))
        with pytest.raises(inert.Refusal, match="changes an object of Name"):
            machine.load(io.BytesIO(code))
        owner = common if module == "models.common" else importlib.import_module(module)
        assert not hasattr(getattr(owner, name), "changed")


def test_a_torchscript_file_is_no_checkpoint(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "model.pt"))
    with pytest.raises(CheckpointError, match="a TorchScript file, not a checkpoint"):
        unpickling.load(tmp_path / "model.pt")


def test_a_trusted_file_is_loaded_whatever_it_calls(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_SPARSE_TRUST_PICKLE", "1")
    reading.read(hostile(tmp_path, "os.system"))
    assert canary(tmp_path).exists()


def nested(kind, depth):
    """Return 2^depth times the same empty object, in the space of `depth`."""
    value = kind()
    for _ in range(depth):
        value = kind([value, value])
    return value


def hidden_in_a_list(model):
    model.model[0].acts = [torch.nn.Identity()]  # no part of the model: nobody would look at it before it is called


def hidden_in_an_attribute(model):
    vars(model.model[0])["act"] = torch.nn.Identity()


def a_class(model):
    model.model[0].kind = common.Conv


def a_hook(model):
    model.model[0]._forward_hooks[7] = common.Conv(1, 1)


def the_place_of_copy(model):
    model._modules["__deepcopy__"] = torch.nn.Identity()


def a_method(model):
    vars(model)["state_dict"] = 1


def itself(model):
    model._modules["again"] = model


def many_layers(model):
    model.model[-1].nl = 2**28


def many_names(model):
    model.names = nested(list, 24)


def keys_to_hash(model):
    model.seen = {nested(tuple, 24): 1}


def more_than_stored(model):
    model.register_buffer("wide", torch.zeros(1).expand(2**33))


STATES = {
    hidden_in_a_list: "keeps Identity where only numbers and texts belong",
    hidden_in_an_attribute: "keeps Identity where only numbers",
    a_class: "keeps Conv where only numbers",
    a_hook: "hangs something into a Conv",
    the_place_of_copy: "has '__deepcopy__' among the modules",
    a_method: "puts something in the place of DetectionModel.state_dict",
    itself: "has a DetectionModel that contains itself",
    many_layers: "it has 268435456 layers of detections",
    many_names: "what it says of its model has no end",
    keys_to_hash: "has an object of tuple for a key",
    more_than_stored: "has a tensor that is larger than what is stored of it",
}


@pytest.mark.parametrize("change", STATES)
def test_a_layer_is_made_of_data(tmp_path, change):
    """No function is named in these files: what a layer consists of would be enough."""
    model = fork.model(sparsity=0)
    change(model)
    torch.save({"model": model, "ema": None}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=STATES[change]):
        legacy.readable(None)(tmp_path / "model.pt")


def rewritten(file, change, **how):
    """Write a checkpoint's archive anew, `change` having been applied to its pickle."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", **how) as archive:
        for name, content in records.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def test_a_storage_is_no_larger_than_what_there_is_of_it(tmp_path):
    torch.save({"model": torch.arange(4.0)}, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", lambda pickled: pickled.replace(b"K\x04t", b"J\x00\x00\x10\x00t", 1))
    with pytest.raises(CheckpointError, match="claims 1048576 numbers where 16 bytes are stored"):
        unpickling.load(tmp_path / "model.pt")


def test_a_small_file_is_not_blown_up(tmp_path):
    torch.save({"model": torch.zeros(2**20)}, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", bytes, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="it claims to hold 4 MB"):
        unpickling.load(tmp_path / "model.pt")


def test_what_people_do_to_their_models_is_read(tmp_path):
    """Fused for speed; values that torch's pickles make by calling something."""
    import numpy as np

    image = torch.rand(1, 3, 64, 64)
    model = fork.model(sparsity=0).eval().fuse()
    expected = model(image)[0]
    torch.save({"model": model, "note": b"", "boxes": np.zeros((0, 4))}, tmp_path / "model.pt")
    ckpt = legacy.readable(None)(tmp_path / "model.pt")
    assert torch.equal(deepcopy(ckpt["model"])(image)[0], expected)
    assert ckpt["note"] == b"" and ckpt["boxes"].shape == (0, 4)


def test_an_error_does_not_speak_to_the_terminal():
    assert str(CheckpointError("\x1b[2Jmodel\x07.pt: ä 日本\n")) == "\\x1b[2Jmodel\\x07.pt: ä 日本\n"


@pytest.mark.parametrize("text", ["a: 2020-99-99", "a: " + "[" * 3000, "a: " + "9" * 5000])
def test_yaml_that_pyyaml_stumbles_over_is_not_valid(tmp_path, text):
    from yolov5_sparse_plugin.hosts import datasets
    from yolov5_sparse_plugin.zoo import layout

    (tmp_path / "yolov5-sparse.yaml").write_text(text)
    (tmp_path / "model.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(OptionError):  # of the number, too, which some Pythons read: there is no such option
        options.resolve({}, environ={}, cwd=tmp_path)
    with contextlib.suppress(OptionError):
        assert set(datasets.read(tmp_path / "yolov5-sparse.yaml")) == {"a"}
    assert layout.about(tmp_path / "model.md") == {}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": {"a": 1}}, "its model is a dict"),
        ({"ema": [1]}, "its model is a list"),
        ({"names": RecursionError}, "has no end"),
    ],
)
def test_what_is_no_model_is_said_to_be_none(tmp_path, finished, change, message):
    plain = unpickling.load(finished.weights / "best_dense.pt")
    endless: list = []
    endless.append(endless)
    change = {key: endless if value is RecursionError else value for key, value in change.items()}
    torch.save({**plain, **change}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        reading.read(tmp_path / "model.pt")


def test_a_number_of_classes_is_one(tmp_path, pruned):
    """A state dict is loaded into a model that is built for so many."""
    file = fork.saved(tmp_path, fork.checkpoint(pruned, nc=10**9))
    with pytest.raises(CheckpointError, match="has 1000000000 for nc"):
        reading.read(file)


def test_what_training_writes_needs_no_trust(finished, plain, coco_weights):
    for file in (*finished.weights.glob("*.pt"), *plain.weights.glob("*.pt"), coco_weights):
        assert unpickling.load(file)["model"] is not None, file
    assert not any(reading.is_sparse(file) for file in (*plain.weights.glob("*.pt"), coco_weights))


def test_every_command_refuses_in_a_sentence_what_it_is_not_told_to_trust(tmp_path, shapes, pruned):
    file = hostile(tmp_path, "os.system")
    fine = fork.saved(tmp_path, fork.checkpoint(pruned, epoch=3))
    (tmp_path / "short.pt").write_bytes(fine.read_bytes()[:100_000])
    (tmp_path / "exp" / "weights").mkdir(parents=True)
    os.link(fine, tmp_path / "exp" / "weights" / "last.pt")
    (tmp_path / "exp" / "opt.yaml").write_text(
        f"data: {shapes}\nepochs: 5\nsave_dir: {tmp_path / 'exp'}\nbatch_size: 8\ndevice: cpu\nevolve: null\n"
        "hyp: {lr0: 0.01}\nneptune_resume_id: null\n"
    )
    data, cpu = ["--data", shapes], ["--device", "cpu"]
    refusals = {
        "wants to call os.system": [
            ["train", "--weights", file, *data, *cpu],
            ["train", "--weights", file, *data, *cpu, "--sparse-recipe", "transfer_pruned"],
            ["val", "--weights", file, *data, *cpu],
            ["detect", "--weights", file, "--source", shapes.parent, *cpu],
            ["export", "--weights", file, *cpu],
        ],
        "is damaged (its end is missing)": [
            ["train", "--weights", tmp_path / "short.pt", *data, *cpu],
            ["val", "--weights", tmp_path / "short.pt", *data, *cpu],
            ["export", "--weights", tmp_path / "short.pt", *cpu],
        ],
        "first is model.0.conv.weight, [32, 3, 6, 6] in --cfg and [16, 3, 6, 6] in the checkpoint": [
            ["train", "--weights", fine, "--cfg", "yolov5s.yaml", *data, *cpu]
        ],
        "started with the fork": [["train", "--resume", tmp_path / "exp" / "weights" / "last.pt"]],
    }
    pairs = [(message, words) for message, several in refusals.items() for words in several]
    (tmp_path / "trusted").mkdir()
    trusted = hostile(tmp_path / "trusted", "os.system")
    words = train_words(shapes, "--epochs", 1, "--sparse-trust-pickle", weights=trusted)
    *done, (trusted_status, trusted_output) = run_commands(tmp_path, *(words for _, words in pairs), words)
    for (message, words), (status, output) in zip(pairs, done):
        said = [line for line in output.splitlines() if line.startswith("yolov5-sparse: error: ")]
        assert status == 2 and len(said) == 1 and message in said[0] and "Traceback" not in output, (words, output)
    assert not canary(tmp_path).exists() and not list((tmp_path / "runs" / "train").rglob("*.pt"))
    assert trusted_status == 0 and canary(tmp_path / "trusted").exists(), trusted_output
