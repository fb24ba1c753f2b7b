"""One sparse training run, from the doorway to the last checkpoint.

A run owns the state; the hooks decide what of it reaches the host. Its life, in the host's order:

    sparse_run_start   options and recipe are valid
    seams replaced     `train()` of the host begins
      adopt_model      the host built a model: copy a float twin, sparse_model_built
      schedule_with    the host built an optimizer: wrap it, initialize the recipe
      bind             the host knows its batches per epoch: the clock starts
      start_batch …    sparse_batch_start; every batch is counted once
      end_epoch        modifiers that end here end; sparse_epoch_end; validation and checkpoint follow
    seams restored
    sparse_run_end
"""

from __future__ import annotations

from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn

from yolov5_sparse_plugin.checkpoints import phases
from yolov5_sparse_plugin.engine import timeline
from yolov5_sparse_plugin.engine.contract import Optimizer, Schedule
from yolov5_sparse_plugin.errors import PluginError, there
from yolov5_sparse_plugin.hosts import current, log, noval
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.hosts.seams import SEAMS
from yolov5_sparse_plugin.options import SparseOptions
from yolov5_sparse_plugin.training import failures, interrupts, randomness, ranks
from yolov5_sparse_plugin.training.clock import EpochClock, watch
from yolov5_sparse_plugin.training.live import LiveModel

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Averages
    from yolov5_sparse_plugin.training.twin import FloatTwin


BUILT = "YOLOv5 has to build it first; sparse_model_built says when there is a model."


class TrainingRun:
    """State of a run, see `runs.Run`.

    Attributes:
        train: the host's function.
        hook: calls the hooks.
    """

    def __init__(
        self,
        train: FunctionType,
        options: SparseOptions,
        schedule: Schedule,
        opt: Any,
        hooks: Any,
        resumed: dict[str, Any] | None = None,
    ):
        self.train = train
        self.options, self.schedule, self.opt = options, schedule, opt
        self.hook = hooks.hook
        self.resumed = resumed
        self.epochs: int = opt.epochs
        self.save_dir = Path(opt.save_dir)
        self.teacher: nn.Module | None = None
        self.ema: Averages | None = None
        self.clock = EpochClock(lambda: self.optimizer.emulated_step())
        self.quantized = False
        self.phase = "dense"
        self.completed = 0
        self.saved = int(resumed["epoch"]) if resumed else 0
        self.begun = False
        self.metrics: list[float] | None = None
        self._live: LiveModel | None = None
        self._optimizer: Optimizer | None = None
        self._loader: Any = None

    # ------------------------------------------------------------------------------------------------- the whole run

    @property
    def host(self) -> dict[str, Any]:
        """The host's namespace: the globals of its `train()`."""
        return self.train.__globals__

    def say(self, message: str, warn: bool = False) -> None:
        log.say(self.host, message, warn)

    def execute(self, hyp: Any, device: Any, callbacks: Any) -> Any:
        """Run the host's `train()` with the seams of all hooks in place, and restore everything afterwards."""
        error: BaseException | None = None
        self.hook.sparse_run_start(run=self)
        made = failures.first_missing(self.save_dir)
        try:
            patches = PatchSet(self.train, self._wrappers(), current.host().title)
            with (
                interrupts.terminable(),
                log.registered(callbacks),
                noval.mended(self.train, self.opt, callbacks),
                patches,
            ):
                result = self.train(hyp, self.opt, device, callbacks)
            patches.require_called(ranks.leads(self.host))
            return result
        except BaseException as caught:
            error = failures.told(self, caught)
            if error is caught:
                raise
            raise error from caught
        finally:
            try:
                self._close(error)
            finally:
                self._end(made, error)

    def _close(self, error: BaseException | None) -> None:
        """Take the engine's hooks off the model.

        Args:
            error: what ended the run; what half-initialized modifiers make of being closed then is no news.
        """
        if self._live is None:
            return
        try:
            self.schedule.close(self.model)
        except Exception:
            if error is None:
                raise

    def _end(self, made: Path | None, error: BaseException | None) -> None:
        """Let the hooks end; leave no empty folder behind a run that did not begin.

        Args:
            made: the first folder that the run has made, see `failures.first_missing`.
            error: what ended the run, and is said of it; what else fails then is a warning.
        """
        try:
            self.hook.sparse_run_end(run=self, error=error)
        except Exception as late:
            if error is None:
                raise
            self.say(str(late), warn=True)
        finally:
            began = error is None or self.begun or self.resumed
            if not began and made is not None and ranks.leads(self.host):
                failures.remove(self.save_dir, made)

    def _wrappers(self) -> dict[str, Callable[[Any], Any]]:
        """Combine what all hooks want to replace; the hook registered last is outermost."""
        wrappers: dict[str, Callable[[Any], Any]] = {}
        for seams in reversed(self.hook.sparse_seams(run=self)):
            for name, wrapper in seams.items():
                if name not in SEAMS:
                    raise PluginError(f"sparse_seams: there is no seam {name!r}. Known: {', '.join(SEAMS)}.")
                inner = wrappers.get(name)
                wrappers[name] = wrapper if inner is None else _outside(wrapper, inner)
        return wrappers

    # -------------------------------------------------------------------------------------------- what the host built

    @property
    def live(self) -> LiveModel:
        return there(self._live, "run.model", BUILT)

    @property
    def model(self) -> nn.Module:
        return self.live.model

    @property
    def twin(self) -> FloatTwin:
        return self.live.twin

    @property
    def optimizer(self) -> Optimizer:
        return there(self._optimizer, "run.optimizer", BUILT)

    @property
    def loader(self) -> Any:
        return there(self._loader, "run.loader", BUILT)

    def adopt_model(self, model: nn.Module) -> nn.Module:
        """Take the model that the host has just built."""
        self._live = LiveModel(model)
        self.hook.sparse_model_built(run=self, model=model)
        return model

    def schedule_with(self, upstream: torch.optim.Optimizer) -> Optimizer:
        """Wrap the optimizer that the host has just built for `model`; weights are loaded, layers frozen by now."""
        log_file = self.save_dir / "sparseml.log" if ranks.leads(self.host) else None
        self.twin.before(self.model)  # to wrap is to quantize, where the recipe starts with that
        optimizer = self._optimizer = self.schedule.wrap(upstream, self.model, log_file, self.teacher)
        for remark in self.schedule.remarks:
            self.say(remark, warn=True)
        if self.schedule.frozen:
            self.say(
                f"--freeze keeps {len(self.schedule.frozen)} of {len(self.live.prunable)} prunable layers as they are; "
                "the recipe's sparsity holds in the others",
                warn=True,
            )
        optimizer.stepped = self.clock.stepped
        optimizer.before_quantization = lambda: self.twin.before(self.model)
        optimizer.after_quantization = self._quantization_started
        if self.schedule.quantizes_already:
            self._quantization_started()
        if self.resumed:
            self.completed = int(round(self.resumed["epoch"]))
            optimizer.seek(float(self.completed))
        self._update_phase()
        return optimizer

    def check_weights(self) -> None:
        """Warn where a recipe would let pruned weights grow back, or hold zeros that are not there."""
        sparsity, recipe = self.sparsity(), self.schedule.recipe
        if sparsity > phases.PRUNED and not self.schedule.prunes:
            self.say(
                f"these weights are {sparsity:.0%} sparse and {recipe.source} has no pruning modifier: they "
                "become dense again. Add '!ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}' to "
                "the recipe, or use a shipped transfer_… recipe.",
                warn=True,
            )
        if sparsity <= phases.PRUNED and timeline.only_holds(recipe):
            self.say(
                f"these weights are dense ({sparsity:.1%} zeros), and {recipe.source} holds zeros but makes none: "
                "nothing will be pruned. To prune trained weights: --sparse-recipe finetune_pruned_quantized",
                warn=True,
            )
        for entry in timeline.growing_back(recipe):
            self.say(
                f"{entry.where(recipe.source)}: leave_enabled is false, so the weights grow back from epoch "
                f"{timeline.end_of(entry):g} on, and the model is not a pruned one. Leave it out to keep the zeros.",
                warn=True,
            )

    def bind(self, loader: Any) -> None:
        """Start the clock: an epoch has as many batches as the loader of the training set."""
        self._loader = loader
        self.optimizer.bind(len(loader), self.completed)
        watch(loader, self.start_epoch, self.start_batch)

    # ----------------------------------------------------------------------------------------------- what hooks tell it

    def learn_from(self, teacher: nn.Module) -> None:
        self.teacher = teacher

    def average_in(self, ema: Averages) -> None:
        self.ema = ema

    def validated(self, metrics: list[float]) -> None:
        self.metrics = metrics

    def written(self) -> None:
        self.saved = self.completed

    # --------------------------------------------------------------------------------------------------- as it trains

    def start_epoch(self) -> None:
        """Let a resumed run draw what it would have drawn, had it not been interrupted."""
        if self.resumed and self.completed == self.resumed["epoch"] and self.resumed.get("random"):
            randomness.restore(self.resumed["random"], self.loader, self.completed)

    def start_batch(self) -> None:
        self.begun = True
        self.clock.start_batch()
        if self.quantized:
            ranks.share_quantizers(self.model)
        self.hook.sparse_batch_start(run=self, epoch=self.optimizer.epoch)

    def end_epoch(self) -> None:
        """Close an epoch after its last batch, before it is validated."""
        self.clock.settle()
        self.completed += 1
        self.optimizer.tick(float(self.completed))
        failures.check_finite(self, self.completed)
        self._update_phase()
        if self.ema is not None:
            self.ema.mask()
        self.hook.sparse_epoch_end(run=self, epoch=self.completed)

    def _quantization_started(self) -> None:
        self.twin.after(self.model)
        self.quantized = True
        if self.ema is not None:
            self.ema.follow(self.model)
        self._update_phase()

    def _update_phase(self) -> None:
        end, clock = self.schedule.pruning_end, self.optimizer.epoch
        pruned = end is not None and (clock >= end or self.completed >= end) and self.masked() > phases.PRUNED
        phase = phases.phase_of(pruned, self.quantized)
        if phase != self.phase:
            before, self.phase = self.phase, phase
            self.hook.sparse_phase_changed(run=self, before=before, after=phase)

    @property
    def settled(self) -> bool:
        """Whether the model is wholly in its phase: false for a dense model that is being pruned."""
        start = self.schedule.pruning_start
        return self.phase != "dense" or start is None or self.completed <= start

    # ------------------------------------------------------------------------------------------------------ measuring

    def masks(self) -> dict[str, torch.Tensor]:
        return self.live.by_name(self.schedule.masks())

    def masked(self) -> float:
        """Return the share of all prunable weights that masks hold at zero, 0..1."""
        return self.live.share(sum((mask == 0).sum().item() for mask in self.masks().values()))

    def layers(self) -> dict[str, float]:
        return self.live.layers()

    def sparsity(self) -> float:
        return self.live.sparsity()

    def figures(self) -> dict[str, float]:
        """Return what the hooks want to be logged with an epoch's metrics, see `sparse_log`."""
        found: dict[str, float] = {}
        for more in reversed(self.hook.sparse_log(run=self)):
            found.update(more)
        return found


def _outside(outer: Callable[[Any], Any], inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda original: outer(inner(original))
