"""The native engine rounds where SparseML rounds, to the same grids, under the float model's names."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from native_runs import (
    GRIDS,
    QUANTIZED,
    SERIES,
    flat,
    images,
    loss_of,
    native,
    quantized,
    quantizing,
    same,
    sgd,
    sparseml,
    sparsemls_quantizer,
    toy,
    yolo,
)

from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.contract import load_strictly
from yolov5_sparse_plugin.engine.native import fake_quantize, layers, structure
from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer
from yolov5_sparse_plugin.training.memory import split_batches
from yolov5_sparse_plugin.training.twin import FloatTwin


def side_by_side(name, width=0.05, steps=2):
    """Train a model in both engines; return the two, and SparseML's gradients by float name, after comparing both."""
    ours, theirs = yolo(width), yolo(width)
    twin = FloatTwin(theirs)
    twin.before(theirs)
    optimizers = []
    for engine, model in ((native, ours), (sparseml(), theirs)):
        optimizers.append(engine.Schedule.load(quantizing(name)).wrap(sgd(model), model, None))
        optimizers[-1].bind(4)
    twin.after(theirs)
    names, live = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for step in range(steps):
        outputs = [flat(model(images(step))) for model in (ours, theirs)]
        same(*outputs)
        for each in outputs:
            loss_of(each).backward()
        for float_name, parameter in names.items():
            same(parameter.grad, live[twin.names[float_name]].grad, float_name)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return ours, theirs


@pytest.mark.parametrize("name", QUANTIZED)
def test_outputs_gradients_and_grids_are_sparsemls(name):
    ours, theirs = side_by_side(name)
    state, mine = theirs.state_dict(), ours.state_dict()
    turned = structure.state_from_sparseml(state, yolo())
    same(dict(sorted(turned.items())), dict(sorted(mine.items())))
    names = structure.names_from_sparseml(state, yolo())
    assert {name.rpartition(".")[2] for name, own in names.items() if own is None} == {"eps"}
    assert sorted(own for own in names.values() if own) == sorted(mine), "one name for each, and back"


@pytest.mark.parametrize("name", ["standard", "batch norm fused", "legacy, some"])
def test_a_state_of_sparsemls_gives_its_outputs_bit_for_bit(name):
    theirs = quantized(name, engine=sparseml())
    text = quantizing(name).text
    again = yolo()
    native.Schedule.of_structure(text, "a checkpoint").apply_quantization(again)
    load_strictly(again, structure.state_from_sparseml(theirs.state_dict(), again))
    with torch.no_grad():
        same(flat(again.eval()(images(9))), flat(theirs.eval()(images(9))))


def test_yolov5n_trains_as_with_sparseml():
    side_by_side("standard", width=0.25, steps=1)


def test_the_float_names_and_objects_stay():
    model = yolo()
    before = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    native.Schedule.load(quantizing("batch norm fused")).apply_quantization(model)
    after = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    assert {name: after.get(name) for name in before} == before
    assert type(model.model[0].conv) is layers.QuantizedConv2d and isinstance(model.model[0].conv, torch.nn.Conv2d)
    assert model.model[11].f == -1 and model.model[12].f == [-1, 6]


# --------------------------------------------------------------------------------------------------------- quantizers


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("symmetric, per_channel, low, high", GRIDS)
def test_a_quantizer_has_the_numbers_of_sparsemls(series, symmetric, per_channel, low, high):
    theirs = sparsemls_quantizer(symmetric, per_channel, low, high)
    ours = FakeQuantizer(low, high, symmetric, 6 if per_channel else 0)
    for step in range(5):
        results = []
        for quantizer in (ours, theirs):
            values = SERIES[series](step).requires_grad_()
            rounded = quantizer(values)
            (rounded * torch.arange(5.0)[:, None]).sum().backward()
            results.append([rounded.detach(), values.grad])
        same(*results)
        observer = theirs.activation_post_process
        same([ours.scale, ours.zero_point], [theirs.scale, theirs.zero_point])
        same([ours.min_val, ours.max_val], [observer.min_val, observer.max_val])
    same(ours.eval()(values.detach()), theirs.eval()(values.detach()))


def test_a_cpus_rounding_is_that_of_torchs_operators():
    values = (torch.randn(7, 50) * 4).requires_grad_()
    scale, zero = torch.tensor([0.031]), torch.tensor([17], dtype=torch.int32)
    mine = fake_quantize.rounded(values, scale, zero, -128, 127, False)
    theirs = torch.fake_quantize_per_tensor_affine(values, scale, zero, -128, 127)
    same(mine, theirs)
    gradients = [torch.autograd.grad(each.square().sum(), values)[0] for each in (mine, theirs)]
    same(*gradients)
    scales, zeros = torch.rand(7) / 10, torch.arange(-3, 4, dtype=torch.int32)
    mine = fake_quantize.rounded(values, scales, zeros, -128, 127, True)
    same(mine, torch.fake_quantize_per_channel_affine(values, scales, zeros, 0, -128, 127))


def test_ranges_are_observed_in_training_only_and_nothing_happens_before():
    quantizer, values = FakeQuantizer(-128, 127, False).eval(), torch.randn(4, 4)
    assert quantizer(values) is values
    quantizer.train()(values)
    state = copy.deepcopy(quantizer.state_dict())
    quantizer.eval()(values * 9)
    quantizer.train().enable_observer(False)
    quantizer(values * 9)
    same(dict(quantizer.state_dict()), {**state, "observer_enabled": torch.zeros(1, dtype=torch.uint8)})


def test_a_cast_leaves_the_grid_in_full_precision():
    model = quantized()
    before = {name: grid.scale.clone() for name, grid in structure.grids(model).items()}
    model.half()
    after = structure.grids(model)
    same({name: after[name].scale for name in before}, before)
    assert model.model[0].conv.weight.dtype == torch.float16


def test_symmetric_weights_have_zero_point_zero_whatever_is_left_of_them():
    quantizer = FakeQuantizer(-128, 127, True, 2)
    quantizer(torch.tensor([[0.0, 0.5], [-0.5, 0.0]]))
    assert quantizer.zero_point.tolist() == [0, 0]


def test_what_two_layers_see_is_rounded_once_and_by_both_alike():
    model = yolo()
    native.Schedule.load(quantizing("standard")).wrap(sgd(model), model, None)
    block, values = model.model[2], {}
    for place in ("cv1", "cv2"):
        layer = getattr(block, place).conv
        layer.register_forward_pre_hook(lambda layer, given, place=place: values.__setitem__(place, given[0]))
    loss_of(model(images())).backward()
    assert values["cv1"] is values["cv2"]
    one, other = block.cv1.conv.input_quantizer, block.cv2.conv.input_quantizer
    same(dict(one.named_buffers()), dict(other.named_buffers()))
    one.forget()  # no longer in the same state
    loss_of(model(images(1))).backward()
    assert values["cv1"] is not values["cv2"]


def test_nothing_is_hung_on_what_outlives_a_pass():
    given, model = images(), quantized("batch norm fused")
    model(given)
    assert not hasattr(given, "_rounded")
    assert not [name for name, p in model.named_parameters() if hasattr(p, "_rounded")]


@pytest.mark.parametrize("name", ["batch norm fused", "legacy"])
def test_a_quantized_model_can_be_pickled_and_copied(name):
    model = quantized(name, adds=False).eval()
    with torch.no_grad():
        expected = flat(model(images(7)))
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
            same(flat(other(images(7))), expected)
    copied = copy.deepcopy(quantized("batch norm fused"))
    assert copied.model[0].conv.norms[0] is copied.model[0].bn


def test_batches_in_parts_leave_the_numbers_of_sparsemls():
    found = []
    for engine in (native, sparseml()):
        model = yolo()
        wrapped = engine.Schedule.load(quantizing("standard")).wrap(sgd(model), model, None)
        split_batches(model, 1)
        for step in range(2):
            loss_of(model(images(step, 3))).backward()
            wrapped.step()
            wrapped.zero_grad()
        found.append(flat(model(images(5, 3))))
    same(*found)


def test_synchronized_batch_norm_counts_as_batch_norm():
    found = []
    for convert in (lambda model: model, torch.nn.SyncBatchNorm.convert_sync_batchnorm):
        model = convert(yolo())
        fields = "{ignore: [SiLU, BatchNorm2d], freeze_bn_stats_epoch: 0.0, strict: false}"
        text = f"modifiers:\n  - !QuantizationModifier {{start_epoch: 0.0, {fields[1:]}\n"
        native.Schedule.of_structure(text, "r").apply_quantization(model)
        found.append(sorted(structure.grids(model)))
        model.train()
        assert not any(layer.training for layer in model.modules() if isinstance(layer, tuple(layers.FROZEN)))
        assert model.model[0].conv.norms == (model.model[0].bn,)
    assert found[0] == found[1]


def test_an_activation_that_many_layers_share_has_a_range_in_each_place():
    model = yolo(adds=False)
    native.Schedule.load(quantizing("everything")).apply_quantization(model)
    acts = [layer.act for layer in model.modules() if type(layer).__name__ == "Conv"]
    assert len({id(act.input_quantizer) for act in acts}) == len(acts)


def test_helpers_switch_every_quantizer():
    model = quantized()
    given = images(3)
    fake_quantize.disable_fake_quant(model)
    floats = yolo()
    floats.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        same(flat(model.eval()(given)), flat(floats.eval()(given)))
    fake_quantize.enable_fake_quant(model)
    fake_quantize.disable_observers(model)
    assert not any(q.observer_enabled for q in fake_quantize.quantizers_of(model))
    fake_quantize.enable_observers(model)
    assert all(q.observer_enabled and q.fake_quant_enabled for q in fake_quantize.quantizers_of(model))
    layers.freeze_batch_norm(model)
    assert not model.train().model[0].bn.training


def test_grids_are_told_by_the_float_models_names():
    model = quantized()
    grids = structure.grids(model)
    conv = model.model[0].conv
    assert torch.equal(grids["model.0.conv.weight"].scale, conv.weight_quantizer.scale)
    assert {"model.0.conv.input", "model.2.m.0.residual.input.0", "model.24.m.2.weight"} <= grids.keys()
    assert grids["model.0.conv.input"][2:] == (-128, 127)


def exported(model):
    import onnx

    model.eval().model[-1].export = True
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(model.requires_grad_(False), (images(1, 1),), file, opset_version=17, dynamo=False)
    return onnx.load_from_string(file.getvalue())


def test_the_exported_graph_is_sparsemls():
    pytest.importorskip("onnx", reason="onnx is not installed")
    import onnx

    graphs = [exported(quantized("batch norm fused", engine=engine)).graph for engine in (native, sparseml())]
    assert graphs[0].node and [[n.op_type for n in g.node] for g in graphs[:1]] == [[n.op_type for n in graphs[1].node]]
    tensors = [sorted(onnx.numpy_helper.to_array(each).tobytes() for each in g.initializer) for g in graphs]
    assert tensors[0] == tensors[1]


def test_a_model_without_batch_norm_or_yolov5_is_quantized_too():
    model = toy()
    native.Schedule.load(quantizing("batch norm fused")).wrap(sgd(model), model, None)
    model(torch.ones(2, 4, 6, 6)).sum().backward()
    assert {"0.weight", "3.weight", "7.weight", "7.input"} <= structure.grids(model).keys()


def test_a_state_of_before_the_first_observation_can_be_gone_on_with():
    theirs = quantized("standard", steps=0, engine=sparseml())
    ours = quantized("standard", steps=0)
    state = theirs.state_dict()
    turned = structure.state_from_sparseml(state, yolo())
    same({name: turned[name] for name in sorted(turned)}, dict(sorted(ours.state_dict().items())))
    load_strictly(ours, turned)
    loss_of(ours(images())).backward()
    engines.load(quantizing("standard"), engine="sparseml").load_state(theirs, yolo(), turned)
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())
