"""Learn from a teacher: a trained model's detections (or layers, if the recipe says so) become part of the loss."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from yolov5_sparse_plugin import hookimpl

_lessons: WeakKeyDictionary = WeakKeyDictionary()  # run -> training.distillation.Lesson


@hookimpl
def sparse_run_start(run):
    from yolov5_sparse_plugin.training.distillation import Lesson

    if run.options.teacher is not None:
        lesson = _lessons[run] = Lesson.prepare(run)
        run.learn_from(lesson.teacher)
    elif run.schedule.distills:
        run.say(f"{run.schedule.source} distills, but there is no teacher: name one with --sparse-teacher", warn=True)


@hookimpl
def sparse_seams(run):
    lesson = _lessons.get(run)

    def loss(build):
        def built(model):
            run.model.hyp = model.hyp  # of several processes, each has them at its DistributedDataParallel only
            compute = build(model)

            def with_teacher(outputs, targets):
                total, items = compute(outputs, targets)
                return lesson.add(run, total, outputs), items

            return with_teacher

        return built

    return {"loss": loss} if lesson else {}


@hookimpl
def sparse_model_built(run, model):
    lesson = _lessons.get(run)
    if lesson:
        lesson.check(run, model)
        model.register_forward_pre_hook(lambda module, inputs: lesson.see(module, inputs))  # copies share a function


@hookimpl
def sparse_log(run):
    return {"sparse/distillation": _lessons[run].average()} if run in _lessons else {}
