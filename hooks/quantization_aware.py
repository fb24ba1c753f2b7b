"""Train with quantization: adds that quantizers can reach, no mixed or half precision, the memory that it takes."""

from __future__ import annotations

import contextlib

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.errors import OptionError
from yolov5_sparse_plugin.training import memory, ranks


@hookimpl
def sparse_run_start(run):
    """Refuse batch norm across processes: SparseML would take it for a layer that is to be quantized."""
    by_sparseml = run.schedule.quantizes and run.schedule.engine == "sparseml"
    if run.opt.sync_bn and ranks.several(run.host) and by_sparseml:
        raise OptionError(
            f"--sync-bn: {run.schedule.source} quantizes, and SparseML knows BatchNorm2d only. Leave --sync-bn out, or "
            "let the other engine execute the recipe: --sparse-engine native."
        )


@hookimpl
def sparse_model_built(run, model):
    if run.schedule.quantizes:
        make_adds_quantizable(model)


@hookimpl
def sparse_seams(run):
    def dataloader(create):
        def announced(*args, **kwargs):
            loader = create(*args, **kwargs)
            training = kwargs.get("augment")  # or the validation set
            if training and run.schedule.quantizes and ranks.leads(run.host):
                memory.announce(run, loader[0].batch_size)
            return loader

        return announced

    def validate(upstream):
        def at_full_precision(*args, **kwargs):
            if run.quantized:
                kwargs["half"] = False
            return upstream(*args, **kwargs)

        return at_full_precision

    def autocast(upstream):
        def until_quantized(*args, **kwargs):
            return contextlib.nullcontext() if run.quantized else upstream(*args, **kwargs)

        return until_quantized

    return {"dataloader": dataloader, "validate": validate, "autocast": autocast}


@hookimpl
def sparse_phase_changed(run, before, after):
    if run.quantized and run.options.qat_batch_size:
        memory.split_batches(run.model, run.options.qat_batch_size)
