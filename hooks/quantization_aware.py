"""Train with quantization: adds that quantizers can reach, no mixed or half precision once they are there."""

from __future__ import annotations

import contextlib

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.training.residual import make_adds_quantizable


@hookimpl
def sparse_model_built(run, model):
    if run.schedule.quantization:
        make_adds_quantizable(model)


@hookimpl
def sparse_seams(run):
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

    return {"validate": validate, "autocast": autocast}
