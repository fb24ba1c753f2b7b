"""What quantization-aware training costs in memory: said before the run, and lowered by `--sparse-qat-batch-size`.

A forward pass keeps activations for the backward pass. Fake quantization adds to them, and mixed precision, which
halves them on a GPU, ends where it starts: a batch that fits before may not fit from then on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from yolov5_sparse_plugin.engine.contract import quantizers_of
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.hosts.host import HostModel

if TYPE_CHECKING:
    from yolov5_sparse_plugin.engine.contract import Schedule
    from yolov5_sparse_plugin.runs import Run


def split_batches(model: nn.Module, images: int) -> None:
    """Let `model` keep the activations of at most `images` images at a time while it trains. Twice is a no-op.

    A batch goes through it in parts. The activations of all parts but the last are dropped, and computed again when the
    backward pass comes to them, one part after the other (torch.utils.checkpoint). Outside the model nothing changes:
    the host sees one batch, one loss (whose means are over the whole batch), one backward pass, so accumulation,
    learning rate, the recipe's clock, distillation and logs are those of the batch size that was asked for. Inside,
    batch norm and observers see parts: each takes its own statistics.

    It costs a second forward pass for all parts but one, and weights are rounded for each part: a step takes 1.26 times
    as long, with 0.52 of the memory, in two parts, and 1.51 times, with 0.28, in four (benchmarks/steps.py).

    Args:
        model: mutated in place; validation, which keeps nothing, is left alone.
    """
    if "forward" in vars(model):
        return
    forward = model.forward

    def in_parts(batch: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (model.training and torch.is_grad_enabled()) or len(batch) <= images:
            return forward(batch, *args, **kwargs)
        *parts, last = batch.split(images)
        outputs = [_computed_twice(model, forward, part) for part in parts]
        return [torch.cat(scale) for scale in zip(*outputs, forward(last))]

    model.forward = in_parts


def _computed_twice(model: nn.Module, forward: Callable[..., Any], part: torch.Tensor) -> Any:
    """Run a part; the second time, it starts from the buffers it started from the first time, and leaves none behind.

    Scales and ranges move with every part: the backward pass has to see those that the part was rounded with.
    """
    holders = [(module._buffers, name) for module in model.modules() for name in module._buffers]
    before = [_copied(buffers[name]) for buffers, name in holders]

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        now = [buffers[name] for buffers, name in holders]
        for (buffers, name), value in zip(holders, before):
            buffers[name] = value
        try:
            yield
        finally:
            for (buffers, name), value in zip(holders, now):
                buffers[name] = value

    contexts = contextlib.nullcontext(), again()
    return checkpoint(forward, part, use_reentrant=False, context_fn=lambda: contexts)


def _copied(buffer: torch.Tensor | None) -> torch.Tensor | None:
    return None if buffer is None else buffer.clone()


def kept(model: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that a forward pass of `model` in training keeps for its backward pass, weights not counted.

    Args:
        images: float32 [B, 3, H, W], 0..1.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)  # holds what it keeps: an address is not used twice before it is gone
    del outputs
    return sum(found.values())


class Need(NamedTuple):
    """Bytes that a forward pass keeps: those of any batch (rounded weights), and those of each pixel of the images."""

    fixed: float
    pixel: float

    @classmethod
    def of(cls, model: HostModel) -> Need:
        """Measure one image and two, small ones; `model` is on the CPU, in training, in float32."""
        side = 2 * int(max(model.stride))
        one, two = (kept(model, torch.rand(count, 3, side, side)) for count in (1, 2))
        return cls(2 * one - two, (two - one) / side**2)

    def bytes(self, images: float, side: float) -> float:
        """Return what a batch of square images of `side` pixels keeps."""
        return self.fixed + self.pixel * side**2 * images


def needs(model: nn.Module, schedule: Schedule) -> tuple[Need, Need]:
    """Measure what a batch needs before quantization, and after.

    Args:
        model: float, on the CPU; changed in place. schedule: one that has done nothing yet.
    """
    model.requires_grad_(True).train()
    before = Need.of(model)
    make_adds_quantizable(model)
    schedule.apply_quantization(model)
    for quantizer in quantizers_of(model):
        quantizer.enable_observer()  # nothing is rounded before the first observation
    return before, Need.of(model)


def said(before: Need, after: Need, batch: int, side: float, images: int, start: float) -> str:
    """Say what a batch of square images of `side` pixels keeps from epoch `start` on.

    Args:
        images: how many of the batch keep their activations at a time, see `split_batches`.
    """
    need = after.bytes(images, side)
    text = (
        f"from epoch {start:g} on, a batch of {batch} images of {side:g} px keeps about {_megabytes(need)} of "
        f"activations, {need / before.bytes(batch, side):.2f} times as much as before"
    )
    if images < batch:
        text += f", because --sparse-qat-batch-size keeps those of {images} images at a time"
    return text


def announce(run: Run, batch: int) -> None:
    """Say what a batch keeps before quantization and after, and warn where there is less memory than that.

    Args:
        batch: images in a batch, on this rank.
    """
    before, after = needs(run.twin.copy_of(run.model), run.schedule.fresh())
    side = run.opt.imgsz * (1.5 if run.opt.multi_scale else 1)  # the largest that --multi-scale makes of it
    images = min(run.options.qat_batch_size or batch, batch)
    device = next(run.model.parameters()).device
    need, free = after.bytes(images, side), _free(device)
    text = said(before, after, batch, side, images, run.schedule.quantization_start or 0.0)
    if device.type == "cuda":
        text += "; twice that where mixed precision was on, because it ends there"
    if need <= free:
        run.say(f"{text}; {_megabytes(free)} are free")
        return
    fits = int((0.8 * free - after.fixed) / (after.pixel * side**2))
    advice = f"--sparse-qat-batch-size {fits}" if fits > 0 else "a smaller --imgsz"
    run.say(f"{text}. Only {_megabytes(free)} are free: try {advice}.", warn=True)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MB"
