"""Write checkpoints atomically, with their sparse part, the best of each phase beside the others; resume from them."""

from __future__ import annotations

from pathlib import Path

from yolov5_sparse_plugin import atomic, hookimpl
from yolov5_sparse_plugin.checkpoints import legacy, reading, writing
from yolov5_sparse_plugin.checkpoints.phases import PHASES
from yolov5_sparse_plugin.checkpoints.summary import print_table
from yolov5_sparse_plugin.training import packing, ranks
from yolov5_sparse_plugin.training.fitness import PhaseFitness


@hookimpl
def sparse_seams(run):
    def save(torch_save):
        if ranks.leads(run.host):
            atomic.sweep(run.save_dir / "weights")

        def packed(ckpt, file):
            run.hook.sparse_pack(run=run, ckpt=ckpt)
            writing.save_atomically(torch_save, ckpt, file)
            run.written()
            if Path(file).stem == "best" and run.settled:
                beside = Path(file).with_name(f"best_{run.phase}.pt")
                writing.copy_atomically(file, beside)

        return packed

    def strip(upstream):
        def finish(file, *args, **kwargs):
            if not reading.is_sparse(file):
                return legacy.stripping(upstream)(file, *args, **kwargs)
            beside = [Path(file).with_name(f"best_{phase}.pt") for phase in PHASES]
            for path in [file, *(p for p in beside if Path(file).stem == "best" and p.exists())]:
                run.say(f"optimizer stripped from {path}, {writing.strip(path):.1f} MB")

        return finish

    def resume(upstream):
        def restore(ckpt, optimizer, ema=None, *args, **kwargs):
            plain = {**ckpt, "ema": None} if run.quantized else ckpt
            best, first, epochs = upstream(plain, optimizer, ema, *args, **kwargs)
            packing.restore(run, ckpt, ema)
            return PhaseFitness(best, ckpt["sparse"]["best_phase"]), first, epochs

        return restore

    return {"save": save, "strip": strip, "resume": resume}


@hookimpl(tryfirst=True)  # others add to what stands here
def sparse_pack(run, ckpt):
    ckpt["sparse"] = packing.sparse_part(run, ckpt["best_fitness"])


@hookimpl
def sparse_run_end(run, error):
    if error is None and run.ema is not None:
        print_table(run.save_dir / "weights", "Checkpoints of this run")
