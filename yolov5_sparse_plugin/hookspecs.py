"""The contract between the plugin and its hooks, in the order in which a training run, then an export, fires them.

A hook is a module, a class or a file (`--sparse-hooks`) whose functions carry `@hookimpl` and the names below.
It may leave out arguments that it does not need. `run` is always the run in progress, a `runs.Run`, `export` the export
in progress, a `runs.Export`; they belong to the plugin: read them, call their methods, and keep what is yours in your
hook (in a `weakref.WeakKeyDictionary`: one process may see several).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import torch

    from yolov5_sparse_plugin.options import SparseOptions
    from yolov5_sparse_plugin.runs import Export, Run

PROJECT = "yolov5_sparse"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def sparse_resolve(kind: str, address: str, options: SparseOptions) -> str | None:
    """Turn an address that YOLOv5 does not understand into the path of a file on this machine.

    Fires before anything of the host is touched.

    Args:
        kind: `weights` or `recipe`.
        address: what the user wrote, for example `transfer_pruned` or `zoo:cv/detection/…`.
        options: the plugin's, of the command that asks: where to look for stubs, for example.

    Returns:
        A path, or None where the address is none of this hook's business. The first path wins.
    """


@hookspec
def sparse_run_start(run: Run) -> None:
    """Look at a run before it starts: options and recipe are valid, the host is still untouched.

    Raise a SparsePluginError to refuse the run; nothing has been written yet.
    """


@hookspec
def sparse_seams(run: Run) -> dict[str, Callable[[Any], Any]]:
    """Name the globals of the host's `train()` to be replaced while this run lasts.

    Returns:
        Seam name (a key of `hosts.seams.SEAMS`) -> function that takes what stands there now and returns its
        replacement. Where several hooks name one seam, the hook registered last wraps the others.
    """


@hookspec
def sparse_model_built(run: Run, model: torch.nn.Module) -> None:
    """Prepare the model that the host has just built, in place, before weights are loaded into it.

    Args:
        model: the host's DetectionModel, float32, on the device of the run. Its float results must not change.
    """


@hookspec
def sparse_batch_start(run: Run, epoch: float) -> None:
    """Fires at the start of every batch, on every rank, after the previous batch has been counted.

    Args:
        epoch: fractional; 2.5 is half-way through the third epoch.
    """


@hookspec
def sparse_phase_changed(run: Run, before: str, after: str) -> None:
    """Fires once when the model enters a phase.

    Args:
        before: `dense`, `pruned`, `quantized` or `pruned_quantized`.
        after: the phase it is in now; `run.model` already has its structure.
    """


@hookspec
def sparse_epoch_end(run: Run, epoch: int) -> None:
    """Fires after an epoch's last batch, before it is validated, on every rank.

    Args:
        epoch: number of epochs completed, 1 after the first.
    """


@hookspec
def sparse_log(run: Run) -> dict[str, float]:
    """Name figures to be logged with the epoch's metrics: results.csv, TensorBoard, Weights & Biases, ….

    Returns:
        Column name -> value. The names must be the same in every epoch of a run.
    """


@hookspec
def sparse_pack(run: Run, ckpt: dict[str, Any]) -> None:
    """Add to a checkpoint before it is written.

    Args:
        ckpt: upstream's dict; `model` and `ema` are already plain float modules of the host's classes. Mutated in
            place; add under `ckpt['sparse']`, with plain values and tensors only.
    """


@hookspec
def sparse_run_end(run: Run, error: BaseException | None) -> None:
    """Fires when the run is over and the host is restored, also after an exception or Ctrl-C.

    Args:
        error: what ended the run early, or None.
    """


@hookspec
def sparse_export_start(export: Export) -> None:
    """Look at an export before it starts: options and weights go together, the host is still untouched.

    Raise a SparsePluginError to refuse it; nothing has been written yet. Plain YOLOv5 checkpoints without a sparse
    option fire no export hook.
    """


@hookspec(firstresult=True)
def sparse_export_graph(export: Export, model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Rewrite the graph that the host has exported, before it is verified and moved into place.

    Args:
        model: as torch writes it, quantizers included, shapes inferred, with names and stride in its metadata.

    Returns:
        The graph to keep, or None to leave it to another hook or as it is. The first one wins.
    """


@hookspec
def sparse_export_done(export: Export, file: Path) -> None:
    """Fires when the verified model is in place and the host is restored.

    Args:
        file: the ONNX file; `export.findings` has the comparison with the torch model.
    """
