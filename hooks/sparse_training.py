"""Train with a recipe: SparseML's optimizer around upstream's, a clock that counts batches, masks in the averages."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.checkpoints import legacy, phases, reading
from yolov5_sparse_plugin.hosts.log import mend_loggers, redirected, with_figures
from yolov5_sparse_plugin.hosts.noval import last_only
from yolov5_sparse_plugin.training.ema import phase_ema


@hookimpl
def sparse_seams(run):
    def load(torch_load):
        return reading.loader(legacy.readable(torch_load), quantized=False)

    def model(build):
        return lambda *args, **kwargs: run.adopt_model(build(*args, **kwargs))

    def optimizer(build):
        def scheduled(model, *args, **kwargs):
            run.check_weights()
            return run.schedule_with(build(model, *args, **kwargs))

        return scheduled

    def dataloader(create):
        def counted(*args, **kwargs):
            loader = create(*args, **kwargs)
            if kwargs.get("augment"):  # the first of two: the training set
                run.bind(loader[0])
            return loader

        return counted

    def scheduler(build):
        def ending_epochs(*args, **kwargs):
            scheduler = build(*args, **kwargs)
            step = scheduler.step

            def end_epoch(*args, **kwargs):
                run.end_epoch()
                step(*args, **kwargs)

            scheduler.step = end_epoch
            return scheduler

        return ending_epochs

    def ema(upstream):
        return phase_ema(upstream, run)

    def copy(deepcopy):
        return lambda model: run.twin.copy_of(model) if model is run.model else deepcopy(model)

    def loggers(build):
        built = redirected(build, run.options.log_dir)

        def kept(*args, **kwargs):
            return with_figures(mend_loggers(built(*args, **kwargs)), run.figures)

        return kept

    return {
        "load": load,
        "model": model,
        "optimizer": optimizer,
        "dataloader": dataloader,
        "scheduler": scheduler,
        "ema": ema,
        "copy": copy,
        "loggers": loggers,
        **last_only(run),
    }


@hookimpl
def sparse_log(run):
    return {"sparse/sparsity": run.sparsity(), "sparse/phase": float(phases.rank(run.phase))}


@hookimpl
def sparse_epoch_end(run, epoch):
    run.say(f"epoch {epoch}/{run.epochs}  phase {run.phase}  sparsity {run.sparsity():.4f}")


@hookimpl
def sparse_phase_changed(run, before, after):
    run.say(f"{before} -> {after} after {run.completed} epochs")
