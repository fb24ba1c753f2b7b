"""Leave the learning rate to a recipe that sets it, let early stopping wait for the recipe, rank phases."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.training.fitness import PhaseFitness


@hookimpl
def sparse_run_start(run):
    if run.opt.cos_lr and run.schedule.owns_learning_rate(run.epochs):
        run.say("the recipe sets the learning rate, --cos-lr only what is before its first modifier", warn=True)


@hookimpl
def sparse_seams(run):
    def scheduler(build):
        def yielding(*args, **kwargs):
            scheduler = build(*args, **kwargs)
            step = scheduler.step

            def step_and_reassert(*args, **kwargs):
                step(*args, **kwargs)
                run.optimizer.reassert()

            scheduler.step = step_and_reassert
            return scheduler

        return yielding

    def fitness(upstream):
        def ranked(results):
            run.validated([float(value) for value in results[0][:4]])
            return PhaseFitness(upstream(results).item(), run.phase)

        return ranked

    def stopper(upstream):
        class PatientStopping(upstream):
            """Stop early only after the recipe's last change; each new phase starts with full patience."""

            def __call__(self, epoch, fitness):
                stop = super().__call__(epoch, fitness)
                if epoch + 1 > run.schedule.last_change:
                    return stop
                self.possible_stop = False  # upstream validates and saves every epoch while it is set
                self.best_epoch = epoch
                return False

        return PatientStopping

    return {"scheduler": scheduler, "fitness": fitness, "stopper": stopper}


@hookimpl
def sparse_log(run):
    rates = run.optimizer.rates
    if rates is None or not run.schedule.owns_learning_rate(run.optimizer.epoch):
        return {}
    return {f"x/lr{i}": rate for i, rate in enumerate(rates)}
