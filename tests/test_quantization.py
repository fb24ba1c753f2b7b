"""Quantization reaches residual adds, observes in training only, and changes no float result."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yolov5
from conftest import ENGINES

from yolov5_sparse_plugin.checkpoints.phases import PHASES, phase_of, rank
from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.contract import quantizers_of
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.recipes_io import read
from yolov5_sparse_plugin.training.fitness import PhaseFitness
from yolov5_sparse_plugin.training.twin import FloatTwin


@pytest.fixture(scope="module")
def model():
    from yolov5.models.yolo import Model
    from yolov5.utils.general import LOGGER

    LOGGER.setLevel(logging.WARNING)
    torch.manual_seed(0)
    built = Model(str(Path(yolov5.__file__).parent / "models" / "yolov5n.yaml"), ch=3, nc=3)
    LOGGER.setLevel(logging.INFO)
    return built


def forward(model, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(torch.rand(2, 3, 64, 64))[0]


def test_quantizable_adds_do_not_change_the_float_result(model):
    changed = deepcopy(model)
    assert make_adds_quantizable(changed) == 7  # the bottlenecks of YOLOv5n's backbone
    assert list(changed.state_dict()) == list(model.state_dict())
    assert torch.equal(forward(changed.eval()), forward(model.eval()))


@pytest.mark.parametrize("engine", ENGINES)
def test_both_inputs_of_every_add_are_quantized(model, engine):
    quantized = deepcopy(model)
    make_adds_quantizable(quantized)
    engines.load(read("quantized"), engine=engine).apply_quantization(quantized)
    adds = [m for n, m in quantized.named_modules() if n.endswith(".residual")]
    assert len(adds) == 7
    for add in adds:
        assert len(list(quantizers_of(add))) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_the_float_twin_follows_every_tensor_through_quantization(model, engine):
    live = deepcopy(model)
    twin = FloatTwin(live)
    make_adds_quantizable(live)
    twin.before(live)
    engines.load(read("quantized"), engine=engine).apply_quantization(live)
    twin.after(live)
    renamed = {"sparseml": "model.0.conv.module.weight", "native": "model.0.conv.weight"}
    assert twin.names["model.0.conv.weight"] == renamed[engine]
    copy = twin.copy_of(live)
    assert type(copy) is type(model) and list(copy.state_dict()) == list(model.state_dict())
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in copy.state_dict().items())
    assert torch.equal(forward(copy.eval()), forward(model.eval()))


def observer(qscheme=torch.per_tensor_affine):
    """The fake quantizer of a run under SparseML; that of native is looked at in test_native_…"""
    pytest.importorskip("sparseml", reason="SparseML installs on Python 3.9 to 3.11")
    from yolov5_sparse_plugin.engine.sparseml.fake_quantize import FakeQuantize

    return FakeQuantize(observer=torch.ao.quantization.MovingAverageMinMaxObserver, dtype=torch.qint8, qscheme=qscheme)


def test_validation_images_do_not_move_the_scales():
    quantizer = observer()
    x = torch.linspace(-1, 1, 1000)
    quantizer.eval()
    assert torch.equal(quantizer(x), x), "unobserved: lets values through"
    quantizer.train()
    quantizer(x)
    scale = quantizer.scale.clone()
    assert scale.item() == pytest.approx(2 / 255, rel=1e-3)
    quantizer.eval()
    out = quantizer(100 * x)
    assert torch.equal(quantizer.scale, scale) and out.max() <= 1.01
    assert quantizer.observer_enabled[0] == 1
    quantizer.train()
    quantizer(100 * x)
    assert quantizer.scale > scale


def test_it_rounds_as_torchs_own_fake_quantization_does():
    own = torch.ao.quantization.FakeQuantize(
        observer=torch.ao.quantization.MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_tensor_affine,
    )
    ours = observer()
    torch.manual_seed(0)
    for _ in range(5):
        x = torch.randn(4, 8, 16, 16, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        a, b = own(x), ours(y)
        assert torch.allclose(a, b, atol=1e-6)
        a.sum().backward(), b.sum().backward()
        assert torch.equal(x.grad, y.grad)
    assert torch.allclose(own.scale, ours.scale)
    assert torch.equal(own.zero_point.long(), ours.zero_point.long())


def test_casts_leave_scales_in_full_precision():
    quantizer = observer()
    quantizer.train()
    quantizer(torch.tensor([-0.0734659, 18.66]))
    scale, low = quantizer.scale.clone(), quantizer.activation_post_process.min_val.clone()
    for cast in (quantizer.half, quantizer.double, quantizer.bfloat16, quantizer.float):
        cast()
        assert torch.equal(quantizer.scale, scale) and quantizer.scale.dtype == torch.float32
        assert torch.equal(quantizer.activation_post_process.min_val, low)


def test_a_later_phase_beats_an_earlier_one_and_prints_as_a_number():
    assert [rank(phase) for phase in PHASES] == [0, 1, 2, 3]
    assert phase_of(True, True) == "pruned_quantized" and phase_of(False, True) == "quantized"
    dense, pruned, better = PhaseFitness(0.9, "dense"), PhaseFitness(0.5, "pruned"), PhaseFitness(0.6, "pruned")
    assert pruned > dense and better > pruned and not pruned > better and pruned >= dense
    assert dense < pruned and pruned != PhaseFitness(0.5, "dense") and pruned == PhaseFitness(0.5, "pruned")
    assert PhaseFitness(0.0, "dense") > 0.0 and PhaseFitness(0.0, "quantized") > 0.0  # upstream starts from 0.0
    assert f"{dense:.3f}" == "0.900" and float(pruned) == 0.5


def test_one_sided_channels_of_symmetric_weights_keep_the_zero_point_at_zero():
    """Pruning leaves channels without a negative weight; the integer kernels of the engines want 0 for all."""
    pytest.importorskip("sparseml", reason="SparseML installs on Python 3.9 to 3.11")
    from yolov5_sparse_plugin.engine.sparseml.fake_quantize import FakeQuantize

    quantizer = FakeQuantize(
        observer=torch.ao.quantization.MovingAveragePerChannelMinMaxObserver,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    weight = torch.randn(4, 3, 3, 3)
    weight[1].abs_()
    weight[2] = -weight[2].abs()
    weight[3] = 0
    rounded = quantizer(weight)
    assert quantizer.zero_point.tolist() == [0, 0, 0, 0]
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert bool(((rounded - weight).abs() <= step).all()) and bool((rounded[3] == 0).all())


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def test_using_a_quantized_checkpoint_changes_nothing_in_it(finished, shapes, tmp_path, monkeypatch):
    """Every buffer, before and after `val`, `detect` and `export`."""
    import yolov5.detect
    import yolov5.export
    import yolov5.val

    from yolov5_sparse_plugin.checkpoints import quantizers, reading

    made = []
    rebuild = quantizers.quantized_model

    def noted(ckpt):
        model = rebuild(ckpt)
        made.append((model, buffers(model)))
        return model

    monkeypatch.setattr(reading, "quantized_model", noted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLOV5_SPARSE_DISABLE", "export_report")
    weights = tmp_path / "best.pt"
    weights.write_bytes((finished.weights / "best.pt").read_bytes())
    place = {"weights": str(weights), "device": "cpu", "imgsz": 64}
    yolov5.val.run(data=str(shapes), workers=0, plots=False, project=str(tmp_path / "val"), **place)
    pictures = str(shapes.parent / "images" / "val")
    yolov5.detect.run(source=pictures, project=str(tmp_path / "detect"), **{**place, "imgsz": (64, 64)})
    yolov5.export.run(include=["onnx"], **{**place, "imgsz": [64]})
    assert len(made) == 3
    for model, before in made:
        after = buffers(model)
        assert len(before) > 300 and before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_file_with_scales_in_half_precision_is_rounded_with_those(tmp_path, pruned, monkeypatch):
    """The fork wrote scales and ranges in FP16, so that they no longer agree; it rounds with the stored scales."""
    import fork

    from yolov5_sparse_plugin.checkpoints import quantizers, reading

    pytest.importorskip("sparseml", reason="SparseML installs on Python 3.9 to 3.11")
    from yolov5_sparse_plugin.engine.sparseml import compat

    monkeypatch.setattr(compat.TorchQuantization, "FakeQuantize", torch.ao.quantization.FakeQuantize)
    theirs = fork.with_add_nodes(deepcopy(pruned))
    text = fork.quantize(theirs, fork.PRUNED + fork.QUANTIZED["unfused"])
    state = {n: v.half() if v.is_floating_point() else v for n, v in fork.state(theirs).items()}
    theirs.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()})
    monkeypatch.undo()
    file = fork.saved(tmp_path, fork.checkpoint(theirs, model=state, checkpoint_recipe=text))
    ours = quantizers.quantized_model(reading.read(file))
    assert list(quantizers_of(ours))
    torch.manual_seed(0)
    before = buffers(ours)
    for _ in range(2):
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(ours(images)[0], theirs(images)[0])
    assert all(torch.equal(value, before[name]) for name, value in ours.named_buffers())
    quantizer = ours.model[1].conv.input_quantizer
    low, high = quantizer.min_val, quantizer.max_val
    assert quantizer.scale.item() != ((high - low) / 255).item(), "they agree: this test shows nothing"
