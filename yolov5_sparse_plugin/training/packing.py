"""What a run puts into `ckpt["sparse"]`, and takes out of it when it is resumed; see `checkpoints.formats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yolov5_sparse_plugin.checkpoints.formats import FORMAT
from yolov5_sparse_plugin.engine.contract import full_precision
from yolov5_sparse_plugin.training import randomness, ranks

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Run


def sparse_part(run: Run, best_fitness: Any) -> dict[str, Any]:
    """Return what `ckpt["sparse"]` holds for the present moment of a run; see `checkpoints.formats`."""
    part = {
        "format": FORMAT,
        "engine": run.schedule.engine,
        "recipe": run.schedule.text,
        "phase": run.phase,
        "epoch": float(run.completed),
        "sparsity": run.sparsity(),
        "layers": run.layers(),
        "metrics": run.metrics,
        "best_phase": getattr(best_fitness, "phase", run.phase),
        "state": run.schedule.state(run.model, run.twin.module),
        "pruned_at": run.optimizer.pruned_at(),
    }
    if not run.quantized and run.ema is not None:
        part["ema"] = full_precision(run.ema.ema)
    if not ranks.several(run.host):  # each process draws its own, and one of them writes
        part["random"] = randomness.state()
    return part


def restore(run: Run, ckpt: dict[str, Any], ema: Any) -> None:
    """Give a resumed run back the full precision that upstream's FP16 copies lost. The structure is there already."""
    part = ckpt["sparse"]
    run.schedule.load_state(run.model, run.twin.module, part["state"])
    run.optimizer.recall(part.get("pruned_at", []))
    if ema is not None:
        ema.updates = ckpt["updates"]
        if not run.quantized and "ema" in part:
            ema.ema.load_state_dict(part["ema"])
