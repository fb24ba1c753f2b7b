"""A recipe is checked as a whole before anything starts; what is wrong is said with its place, and what is allowed."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yolov5
from conftest import ENGINES, REPOSITORY

from yolov5_sparse_plugin.engine import recipe as language
from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.fitting import fit
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText, read

GRADUAL = {
    "params": "__ALL_PRUNABLE__",
    "init_sparsity": 0.1,
    "final_sparsity": 0.6,
    "start_epoch": 0.0,
    "end_epoch": 1.0,
    "update_frequency": 0.25,
}


ACDC = {"compression_sparsity": 0.6, "params": "__ALL_PRUNABLE__", "start_epoch": 0, "end_epoch": 9}


def text_of(tag, fields):
    """Write a recipe of one modifier; each field on a line of its own, from line 4 on."""
    lines = "".join(f"      {name}: {json.dumps(value)}\n" for name, value in fields.items())
    return f"num_epochs: 3\nmodifiers:\n  - !{tag}\n{lines}"


def parse(text, **how):
    return language.parse(RecipeText(text, "r.yaml"), {}, {}, **how)


def pruning(**fields):
    return text_of("MagnitudePruningModifier", {**GRADUAL, **fields})


def quantizing(**fields):
    return text_of("QuantizationModifier", {"start_epoch": 1.0, **fields})


REFUSED = {
    # wrong kinds of values
    pruning(params=None): r"line 4: MagnitudePruningModifier: params None: expected __ALL_PRUNABLE__, __ALL__",
    pruning(params={"re:.*": 1}): r"params {'re:\.\*': 1}: expected __ALL_PRUNABLE__",
    pruning(params=[3]): r"params \[3\]: expected a list of names",
    pruning(params="model.0.conv.weight"): r"or a list: write \['model\.0\.conv\.weight'\]",
    pruning(params=["re:model.[0"]): r"'re:model\.\[0' is not a regular expression: unterminated character set",
    pruning(params=[]): r"params is empty\. For all of them: __ALL_PRUNABLE__",
    pruning(final_sparsity=True): r"final_sparsity True: expected a number",
    pruning(final_sparsity=60): r"from 0 to less than 1 \(60 % is 0\.6\)",
    pruning(final_sparsity=1): r"expected a share of zeros, from 0 to less than 1",
    pruning(final_sparsity={"0.5": "re:.*"}): r"expected a list: write \[re:\.\*\]",
    pruning(leave_enabled="perhaps"): r"leave_enabled 'perhaps': expected true or false",
    pruning(inter_func="cubical"): r"inter_func 'cubical': expected .*\. Did you mean 'cubic'",
    quantizing(ignore="SiLU"): r"ignore 'SiLU': expected a list: write \[SiLU\]",
    quantizing(submodules="model"): r"submodules 'model': expected a list: write \[model\]",
    text_of("SetLearningRateModifier", {"learning_rate": 0.1, "param_groups": 0}): r"expected a list of groups'",
    text_of("SetParamModifier", {"params": ["a"], "val": [1, "x"]}): r"val \[1, 'x'\]: expected a number",
    # masks
    pruning(mask_type="blocks"): r"mask_type 'blocks': expected unstructured, block4, a block such as \[1, 4\], or N:M",
    pruning(mask_type=[1, -1]): r"mask_type \[1, -1\]: expected unstructured",
    pruning(mask_type="4:2"): r"mask_type '4:2': expected unstructured",
    pruning(mask_type="2:4"): r"mask_type 2:4 always makes 0\.5 of the weights zero: .* have to be 0\.5, found 0\.1",
    # times
    pruning(end_epoch=-1): r"line 8: .* end_epoch -1: expected an epoch, 0 or later; -1 has no meaning here",
    pruning(start_epoch=-2): r"start_epoch -2: expected an epoch, 0 or later \(or -1: not set\)",
    pruning(start_epoch=2.0): r"end_epoch 1 is not after start_epoch 2",
    pruning().replace("end_epoch: 1.0", "end_epoch: .inf"): r"end_epoch inf: expected a number",
    pruning().replace("init_sparsity: 0.1", "init_sparsity: .nan"): r"init_sparsity nan: expected a number",
    pruning(init_sparsity=0.7): r"init_sparsity 0\.7 is above final_sparsity 0\.6",
    quantizing(freeze_bn_stats_epoch=0.5): r"freeze_bn_stats_epoch 0\.5 is before start_epoch 1",
    quantizing(end_epoch=2.0): r"end_epoch 2\.0: it would change nothing\. Leave it out",
    # what cannot be run
    quantizing(model_fuse_fn_name="nofuse"): r"line 5: .*'nofuse': expected .*\. Did you mean 'no_fuse'",
    quantizing(scheme={"weights": {"num_bits": 4}}): r"scheme\.weights\.num_bits 4: expected 8: no other number",
    quantizing(scheme={"input_activations": {"num_bits": 32}}): r"scheme\.input_activations\.num_bits 32: expected 8",
    quantizing(submodules=["model"], weight_bits=4): r"weight_bits 4: expected 8",
    quantizing(scheme={"input_activations": {"strategy": "channel"}}): r"strategy 'channel': expected tensor: engines",
    quantizing(scheme={"weights": {"kwargs": {"reduce_range": True}}}): r"weights\.kwargs\.reduce_range True: expected",
    quantizing(submodules=["model"], reduce_range=True): r"reduce_range True: expected false: a range of 7 bits",
    quantizing(scheme={"weigths": {}}): r"scheme has no key 'weigths'\. Did you mean 'weights'",
    quantizing(scheme_overrides={"Conv2d": {"weights": {"stratgy": "tensor"}}}): r"Conv2d\.weights has no key",
    quantizing(scheme="tensorRT"): r"scheme 'tensorRT': expected default, deepsparse, tensorrt",
    quantizing(num_calibration_steps=8): r"ranges are observed while the model trains; nothing is calibrated",
    quantizing(weights=8): r"line 5: QuantizationModifier has no key 'weights'",
    text_of("OBSPruningModifier", GRADUAL): r"OBSPruningModifier cannot run here: it collects.*Instead: Mag",
    text_of("MFACPruningModifier", GRADUAL): r"MFACPruningModifier cannot run here: it collects gradients",
    text_of("LayerPruningModifier", {"layers": ["model.3"]}): r"LayerPruningModifier cannot run here",
    text_of("EpochRangeModifier", {"start_epoch": 0.0}): r"line 3: EpochRangeModifier needs end_epoch",
    text_of("EpochRangeModifer", {"start_epoch": 0.0}): r"no modifier 'EpochRangeModifer'\. Did you mean",
    text_of("LearningRateModifier", {"lr_class": "StepLR", "lr_kwargs": {"step": 1}, "init_lr": 0.1, "start_epoch": 0}):
        r"lr_kwargs {'step': 1}: StepLR takes step_size, gamma",
    text_of("LearningRateModifier",
            {"lr_class": "StepLR", "lr_kwargs": {"step_size": 1}, "init_lr": 0.1, "start_epoch": 0}):
        r"StepLR takes step_size, gamma; look at gamma",
    text_of("SetLearningRateModifier", {"learning_rate": None, "start_epoch": 0}): r"learning_rate None: expected",
    # where things stand
    "modifiers:\n  - {start_epoch: 0.0}\n": r"line 2: no modifier: its name",
    "modifiers:\n  - !EpochRangeModifier [1, 2]\n": r"EpochRangeModifier needs 'key: value' lines",
    "a: 1\nlists:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n": r"line 3: found '!Epoch",
    "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, start_epoch: 1.0}\n": r"'start_epoch' stands there twice",
    pruning(params=[], final_sparsity={0.5: ["a"]}).replace('"0.5": ["a"]', '0.5: ["a"], 0.50: ["b"]'):
        r"line 6: '0\.50' stands there twice",
    "num_epochs: 3\nnum_epochs: 4\nmodifiers: []\n": r"line 2: 'num_epochs' stands there twice, first in line 1",
    "a_modifiers: []\na_modifiers: []\n": r"line 2: 'a_modifiers' stands there twice",
    "on: 3\nmodifiers: []\n": r"line 1: 'on' is no name\. Put it in quotes",
    "5: 3\nmodifiers: []\n": r"line 1: '5' is no name",
    "? [a, b]\n: 3\nmodifiers: []\n": r"line 1: a list or a mapping is no name",
    pruning().replace("start_epoch: 0.0", 'start_epoch: !!int ""'): r"line 7: '' is no value of int",
    pruning().replace("start_epoch: 0.0", "start_epoch: !!bool perhaps"): r"line 7: 'perhaps' is no value of bool",
    pruning(start_epoch="eval((-8) ** 0.5)"): r"eval\(\(-8\) \*\* 0\.5\): the result is no real number",
    pruning(params=[], final_sparsity={0.5: ["__ALL_PRUNABLE__"]}): r"expected names of parameters, or patterns",
    quantizing(scheme="default", submodules=["model"]): r"has the key 'scheme' of one of its two forms beside keys of",
    text_of("ACDCPruningModifier", {**ACDC, "update_frequency": 0}): r"update_frequency 0: expected a whole number",
    "modifiers:\n  - !EpochRangeModifier {start_epoch: 2024-01-01, end_epoch: 1.0}\n": r"found '.*timestamp' where",
    "one: {a_modifiers: []}\nmodifiers: []\n": r"'modifiers' stands beside the stage 'one'",
    "a: eval(b)\nb: eval(a)\nmodifiers: []\n": r"line 1: cannot compute .* eval\(b\): 'b' depends on itself",
    "a: eval(rate * 2)\nrates: 1\nmodifiers: []\n": r"there is no variable 'rate'\. Did you mean 'rates'",
    "a: word\nb: eval(a * 2)\nmodifiers: []\n": r"'a' is 'word', not a number",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_fault_is_named_with_its_place_and_what_is_allowed(text):
    with pytest.raises(RecipeError, match=REFUSED[text]) as caught:
        parse(text)
    assert str(caught.value).startswith("r.yaml") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pruning(end_epoch=2, init_sparsity="__FROM_PARAM__"),
        pruning(params=[], final_sparsity={0.5: ["re:model.0.*"], 0.6: ["model.1.conv.weight"]}),
        pruning(mask_type="2:4", init_sparsity=0.5, final_sparsity=0.5).replace('"2:4"', "2:4"),
        pruning(init_sparsity="1e-2", log_types="__ALL__"),  # recipes of 2021 have log_types
        text_of("ConstantPruningModifier", {"params": "__all_prunable__", "end_epoch": -1.0, "update_frequency": -1.0}),
        quantizing(scheme="tensorrt", ignore=None, scheme_overrides={"Conv2d": "default", "model.0": None}),
        # as SparseML writes its modifiers into checkpoints
        quantizing(
            scheme={"weights": "null", "input_activations": {"num_bits": 8, "kwargs": {}}, "target_hardware": "null"},
            scheme_overrides={},
            model_fuse_fn_name="null",
            model_fuse_fn_kwargs={"inplace": True},
        ),
        quantizing(submodules=["model"], activation_qconfig_kwargs=None, activation_bits=False, tensorrt=False),
        "!pytorch.EpochRangeModifier".join(["modifiers:\n  - ", " {start_epoch: -1, end_epoch: 1}\n"]),
    ],
)
def test_what_published_recipes_and_checkpoints_say_is_read(text):
    assert len(parse(text).entries) == 1
    from yolov5_sparse_plugin.engine import engines

    assert len(engines.load(RecipeText(text, "r.yaml")).modifiers) == 1


def test_recipes_with_a_licence_or_a_bom_above_them(tmp_path):
    yaml = "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: x}\n"
    for name, text in (
        ("licensed.md", f"<!--\nCopyright\n-->\n\n---\n{yaml}---\n# A card\n"),
        ("bom.md", f"\ufeff---\n{yaml}---\n"),
        ("bom.yaml", "\ufeff" + yaml),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        line = text.splitlines().index("  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: x}") + 1
        with pytest.raises(RecipeError, match=rf"line {line}: EpochRangeModifier: end_epoch 'x': expected a number"):
            language.parse(read(str(tmp_path / name)), {}, {})
    (tmp_path / "open.md").write_text(f"---\n{yaml}")
    with pytest.raises(RecipeError, match="between two lines '---'; the second is missing"):
        read(str(tmp_path / "open.md"))


# ------------------------------------------------------------------------------------------------------ on a model


@pytest.fixture(scope="module")
def built():
    """Return models of this YOLOv5 by the name of their YAML, each built once."""
    from yolov5.models.yolo import Model
    from yolov5.utils.general import LOGGER

    models = {}

    def build(name):
        if name not in models:
            level = LOGGER.level
            LOGGER.setLevel(logging.ERROR)
            models[name] = Model(str(Path(yolov5.__file__).parent / "models" / name), ch=3, nc=3)
            LOGGER.setLevel(level)
        return deepcopy(models[name])

    return build


def freezing(start, end):
    frozen = {"params": ["re:model.0.*"], "trainable": False, "start_epoch": start, "end_epoch": end}
    return text_of("TrainableParamsModifier", frozen) + pruning().partition("modifiers:\n")[2]


@pytest.mark.parametrize(
    "text, message",
    [
        (pruning(params=["re:model.2.conv3"]), r"names params 're:model\.2\.conv3', which matches nothing.*Nearest"),
        (pruning(params=["model.*.conv.weight"]), r"nothing in this model \(a pattern begins with re:\)\. Nearest"),
        (pruning(mask_type=[1, 4]), r"\[1, 4\] does not divide model\.0\.conv\.weight, whose shape is \[16, 3, 6, 6\]"),
        (pruning(mask_type="3:7", init_sparsity=0.57, final_sparsity=0.57), r"3:7 does not divide model\.0\.conv"),
        (quantizing(ignore=["LeakyReLU"]), r"names ignore 'LeakyReLU', which matches nothing.*Nearest: SiLU"),
        (quantizing(scheme_overrides={"model.22.dfl": None}), r"names scheme_overrides 'model\.22\.dfl', whi"),
        (quantizing(submodules=["model.99"]), r"names submodules 'model\.99', which matches nothing"),
        (quantizing(ignore=["model.2.cv1.act"]), r"is the same module as 'model\.0\.act': one SiLU"),
        (freezing(0.0, 1.0), r"starts at epoch 0, when TrainableParamsModifier of line 3 keeps model"),
        (text_of("SetParamModifier", {"params": ["model.0.bn.bias"], "val": [1, 2]}), r"shape \[2\], and mod"),
        (freezing(-1.0, -1.0), r"keeps model\.0\.conv\.weight from learning"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_model_is_named(built, text, message):
    with pytest.raises(RecipeError, match=message):
        fit(parse(text), built("yolov5n.yaml"))


def test_a_modifier_of_somebodys_own_stands_beside_freezing(built):
    frozen = freezing(0.0, 1.0).replace("!MagnitudePruning", "!OwnPruning")
    recipe = language.parse(RecipeText(frozen, "r.yaml"), {}, {"OwnPruningModifier": GRADUAL})
    assert len(fit(recipe, built("yolov5n.yaml"))) == 2


def test_pruning_more_than_weights_is_warned_of(built):
    (found,) = fit(parse(pruning(params=["re:.*weight"])), built("yolov5n.yaml"))
    assert "params also means 57 parameters that are no weights of convolutions" in found.remarks[0]


def test_a_modifier_that_two_stages_share_has_the_times_of_each():
    stage = "  length: {}\n  a_modifiers:\n    - {}\n"
    shared = "&it !EpochRangeModifier {start_epoch: 0.0, end_epoch: eval(length)}"
    recipe = parse("one:\n" + stage.format(2, shared) + "two:\n" + stage.format(5, "*it"))
    assert [entry.fields["end_epoch"] for entry in recipe.entries] == [2, 5]
    assert [entry.fields["end_epoch"] for entry in parse(recipe.text).entries] == [2, 5]


def test_freezing_before_or_after_pruning_is_fine(built):
    fit(parse(freezing(0.0, 1.0).replace("start_epoch: 0.0\n      end_epoch: 1.0\n      upd", "start_epoch: 1.0\n      "
              "end_epoch: 2.0\n      upd")), built("yolov5n.yaml"))  # fmt: skip


def test_a_lenient_recipe_is_warned_of_words_that_mean_nothing(built):
    """`strict: false` lets one list serve many models; SiLu is no layer of any."""
    text = quantizing(strict=False, ignore=["SiLU", "Hardswish", "SiLu", "model.77"])
    (found,) = fit(parse(text), built("yolov5n.yaml"))
    assert [remark.partition(": ignore ")[2].partition(".")[0] for remark in found.remarks] == [
        "'SiLu' matches nothing in this model",
        "'model",
    ]
    assert "Nearest: SiLU" in found.remarks[0]


MODELS = ("yolov5n.yaml", "hub/yolov3-tiny.yaml", "hub/yolov5s-transformer.yaml", "hub/yolov5s-ghost.yaml")


WEIGHTS = {"weight_fake_quant", "weight_quantizer"}  # the quantizer of a weight, in SparseML and in native


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "shipped"])
@pytest.mark.parametrize("name", MODELS)
def test_a_bare_quantization_leaves_yolov5s_wiring_in_order(built, name, bare, engine):
    """Upsample, Concat and MaxPool of YOLOv5's own list of layers; attention stays float."""
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.engine.contract import quantizers_of
    from yolov5_sparse_plugin.engine.residual import make_adds_quantizable

    model = built(name)
    make_adds_quantizable(model)
    text = RecipeText(quantizing(), "bare") if bare else read("quantized")
    schedule = engines.load(text, engine=engine)
    schedule.apply_quantization(model)
    for quantizer in quantizers_of(model):
        quantizer.enable_observer()
    sum(output.square().mean() for output in model.train()(torch.rand(2, 3, 64, 64))).backward()
    assert model.eval()(torch.rand(1, 3, 64, 64))[0].isfinite().all()
    rounded = {name for name, module in model.named_modules() if WEIGHTS & set(dict(module.named_children()))}
    floats = {n for n, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))} - rounded
    assert len(rounded) > 10 and all(name.startswith("model.8.m.") for name in floats)
    assert bool(floats) == ("transformer" in name)


def test_groups_of_parameters_that_the_optimizer_has_not_got(built):
    from yolov5_sparse_plugin.engine import engines

    text = text_of("SetLearningRateModifier", {"learning_rate": 0.1, "param_groups": [0, 7], "start_epoch": 0.0})
    model = built("yolov5n.yaml")
    with pytest.raises(RecipeError, match=r"line 5: .* param_groups names 7, but the optimizer has 1, from 0 on"):
        engines.load(RecipeText(text, "r.yaml")).wrap(torch.optim.SGD(model.parameters(), lr=0.1), model, None)


# ------------------------------------------------------------------------------------------------------ beside it


def test_the_schema_and_sparseml_name_the_same_fields():
    """What the schema lets through reaches SparseML's constructor, and what that takes can be said in a recipe."""
    import inspect

    pytest.importorskip("sparseml", reason="SparseML installs on Python 3.9 to 3.11")
    from yolov5_sparse_plugin.engine.sparseml import distillation  # noqa: F401  registers this project's own
    from yolov5_sparse_plugin.engine.sparseml.modifiers import LegacyQuantizationModifier, modifier_classes

    classes = modifier_classes()
    for tag, model in {**schema.MODIFIERS, "Legacy": schema.LegacyQuantizationModifier}.items():
        cls = LegacyQuantizationModifier if tag == "Legacy" else classes[tag]
        parameters = inspect.signature(cls.__init__).parameters
        assert set(model.model_fields) == set(parameters) - {"self", "kwargs"}, tag
        required = {n for n, p in parameters.items() if p.default is p.empty and n not in ("self", "kwargs")}
        assert {n for n, f in model.model_fields.items() if f.is_required()} == required, tag
    own = {tag for tag, cls in classes.items() if cls.__module__.split(".")[0] in ("sparseml", "yolov5_sparse_plugin")}
    assert own <= set(schema.MODIFIERS) | set(schema.REFUSED)


def test_every_modifier_and_field_is_described():
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    for tag, model in schema.MODIFIERS.items():
        assert f"`{tag}`" in page, tag
        assert all(f"`{name}`" in page for name in model.model_fields), (tag, list(model.model_fields))
    assert all(f"`{tag}`" in page for tag in schema.REFUSED)
