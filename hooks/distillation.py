"""Learn from a teacher: a trained model's detections (or layers, if the recipe says so) become part of the loss."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl


@hookimpl
def sparse_run_start(run):
    from yolov5_sparse_plugin.training.distillation import Lesson

    if run.options.teacher is not None:
        run.lesson = Lesson.prepare(run)
    elif run.schedule.distills:
        run.say(f"{run.schedule.source} distills, but there is no teacher: name one with --sparse-teacher", warn=True)


@hookimpl
def sparse_seams(run):
    def loss(build):
        def built(model):
            run.model.hyp = model.hyp  # of several processes, each has them at its DistributedDataParallel only
            compute = build(model)

            def with_teacher(outputs, targets):
                total, items = compute(outputs, targets)
                return run.lesson.add(run, total, outputs), items

            return with_teacher

        return built

    return {"loss": loss} if run.lesson else {}


@hookimpl
def sparse_model_built(run, model):
    if run.lesson:
        run.lesson.check(run, model)
        lesson = run.lesson
        model.register_forward_pre_hook(lambda module, inputs: lesson.see(module, inputs))  # copies share a function


@hookimpl
def sparse_log(run):
    return {"sparse/distillation": run.lesson.average()} if run.lesson else {}
