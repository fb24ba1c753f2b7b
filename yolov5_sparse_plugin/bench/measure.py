"""Latency of ONNX models in the CPU engines that people deploy with, measured so that the ratios can be trusted.

An engine's models are timed in turn, one inference each, round by round, so that whatever else the machine does hits
all of them alike. Engines come one after another: their thread pools would disturb each other. Each model runs in a
process of its own: an engine that aborts on a graph costs one row, not the run.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from yolov5_sparse_plugin import cpu, processes
from yolov5_sparse_plugin.bench import onnx_input
from yolov5_sparse_plugin.bench.child import telling_line
from yolov5_sparse_plugin.bench.engines import ENGINES, Engine
from yolov5_sparse_plugin.errors import BenchError, nearest

__all__ = ["ENGINES", "Engine", "Processes", "Row", "measure"]
MOST = 100  # rounds of an engine that is given seconds


@dataclass
class Row:
    """One model in one engine.

    Attributes:
        engine: key of `ENGINES`.
        model: the path as it was given.
        milliseconds: median time of one inference, that is of one batch; None if there is an error.
        images_per_second: batch size over that time.
        ratio: `milliseconds` over those of the first model in the same engine (below 1: faster); None if either failed.
        error: the engine's own words if it cannot run this model.
        remark: what should be known to read the figure, for instance that a fallback ran.
    """

    engine: str
    model: Path
    milliseconds: float | None = None
    images_per_second: float | None = None
    ratio: float | None = None
    error: str | None = None
    remark: str | None = None


class Child:
    """A process that runs an engine, one model in it, see `child`.

    Attributes:
        seconds: the timed inferences.
        failed: why it no longer answers, in the engine's words; None while it does.
        remark: what the engine says of the loaded model.
    """

    def __init__(self, engine: str):
        self.seconds: list[float] = []
        self.failed: str | None = None
        self.remark: str | None = None
        # what the engine writes and, killed or crashed, cannot remove
        self.folder = tempfile.TemporaryDirectory(prefix="yolov5-sparse-bench-")
        self.log = (Path(self.folder.name) / "log").open("w+", errors="replace")
        self.process = subprocess.Popen(
            processes.python("yolov5_sparse_plugin.bench.child", engine),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, "TMPDIR": self.folder.name},
            text=True,
            bufsize=1,
        )
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self._input, self._output = self.process.stdin, self.process.stdout

    def load(self, model: Path, batch: int, img: int | Sequence[int] | None, threads: int) -> None:
        """Let it load a model, and don't wait for that."""
        self._say(json.dumps({"model": str(model), "batch": batch, "img": img, "threads": threads}))

    def loaded(self) -> None:
        """Wait until the model is loaded, or has failed to."""
        self.remark = None if self.failed else self._answer().get("remark")

    def time(self) -> float | None:
        """Run one inference and return its seconds; None if it failed."""
        self._say("")
        return None if self.failed else self._answer().get("seconds")

    def close(self) -> None:
        self.process.kill()
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def _say(self, line: str) -> None:
        try:
            self._input.write(line + "\n")
        except BrokenPipeError:
            self.failed = self._last_words()

    def _answer(self) -> dict[str, Any]:
        line = self._output.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        self.failed = answer.get("error")
        return answer

    def _last_words(self) -> str:
        """Return how the process ended and what it had to say of it."""
        status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().splitlines()
        blame = [line for line in lines if any(word in line.lower() for word in ("assert", "error", "what():"))]
        last = (blame or lines[-1:] or ["it left no message"])[0]
        return f"the engine ended its process (status {status}): {telling_line(last)}"


def measure(
    models: Sequence[Path],
    engines: Sequence[str],
    *,
    batch: int = 1,
    threads: int | None = None,
    img: int | None = None,
    rounds: int = 20,
    warmup: int = 3,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Row]:
    """Time `models` in `engines` on this CPU.

    Args:
        models: ONNX files; the first is what the others are compared with.
        engines: keys of `ENGINES`.
        batch: images in one inference.
        threads: of each engine; None: as many as physical cores are available to this process.
        img: pixels a side; None: the model's own, 640 for a dynamic one.
        rounds: timed inferences of each model.
        warmup: inferences of each model before them.
        progress: called with the steps done, the steps in all, and what comes next.

    Returns:
        A row for each engine and model, in the order given, engine by engine.

    Raises:
        BenchError: a model, engine or number cannot be used as asked; nothing was measured.
    """
    models = [Path(model) for model in models]
    if rounds < 1:
        raise BenchError(f"bench --rounds {rounds}: needs a whole number of at least 1.")
    if warmup < 0:
        raise BenchError(f"bench: warmup={warmup} makes no sense. Give 0 or more.")
    check(models, engines, batch=batch, threads=threads, img=img)
    steps = _Steps(len(engines) * len(models) * (1 + warmup + rounds), progress)
    rows = []
    for engine in engines:
        with Processes([engine], len(models)) as processes:
            processes.load(models, batch, threads, img)
            rows += processes.time(rounds, warmup, steps)
    return rows


def check(
    models: Sequence[Path],
    engines: Sequence[str],
    *,
    batch: int,
    threads: int | None,
    img: int | None,
) -> None:
    """Refuse what cannot be measured, before anything is; see `measure`."""
    for name, value, least in (("batch", batch, 1), ("threads", threads, 1), ("img", img, 32)):
        if value is not None and value < least:
            raise BenchError(f"bench --{name} {value}: needs a whole number of at least {least}.")
    allowed = len(cpu.available())
    if threads and threads > allowed:
        raise BenchError(
            f"bench --threads {threads}: this process may run on {allowed} CPU(s). Ask for no more than that."
        )
    if not models:
        raise BenchError("bench: no model was given. Give the paths of exported .onnx models.")
    if not engines:
        raise BenchError(
            "bench: there is no engine to measure. Bring one: " + _choices(e.pip for e in ENGINES.values())
        )
    for engine in engines:
        if engine not in ENGINES:
            raise BenchError(f"bench --engine {engine}: there is no such engine. {nearest(engine, ENGINES)}")
        if not ENGINES[engine].installed():
            raise BenchError(
                f"bench --engine {engine}: {ENGINES[engine].title} is not installed here. "
                f"Bring it with: {ENGINES[engine].pip}"
            )
    for model in models:
        onnx_input.read(model).resolve(batch, img)


def _choices(commands: Iterable[str]) -> str:
    return " or ".join(f"'{command}'" for command in commands)


class _Steps:
    """Counts the steps of a run and reports each."""

    def __init__(self, total: int, report: Callable[[int, int, str], None] | None):
        self.done, self.total, self.report = 0, total, report

    def next(self, what: str, count: int = 0) -> None:
        self.done += count
        if self.report:
            self.report(self.done, self.total, what)


class Processes:
    """Engines in processes of their own, one for each model: started at once, given their models, then timed.

    A context manager: entering starts the processes and does not wait for them (to import an engine takes up to three
    seconds of one core), leaving ends them.
    """

    def __init__(self, engines: Sequence[str], models: int = 1):
        self._children: dict[str, list[Child]] = {engine: [] for engine in engines}
        self._count = models
        self._stack = ExitStack()
        self._models: Sequence[Path] = []
        self._batch = 1

    def __enter__(self) -> Processes:
        with ExitStack() as stack:  # an interrupt half-way ends those that have started
            for engine, children in self._children.items():
                for _ in range(self._count):
                    with interrupts_held():
                        children.append(Child(engine))
                        stack.callback(children[-1].close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def load(
        self,
        models: Sequence[Path],
        batch: int = 1,
        threads: int | None = None,
        img: int | Sequence[int] | None = None,
    ) -> None:
        """Let every engine load `models`, and don't wait for that.

        The arguments are those of `measure`, checked; there may be fewer models than processes for them, and `img` may
        be height and width.
        """
        self._models, self._batch = models, batch
        threads = threads or cpu.detect().cores
        for children in self._children.values():
            for model, child in zip(models, children):
                child.load(model, batch, img, threads)

    def time(self, rounds: int, warmup: int, steps: _Steps | None = None, seconds: float = 0.0) -> list[Row]:
        """Wait until all are loaded, then time engine by engine; see `measure`.

        Args:
            seconds: an engine goes on beyond `rounds` until so much time has passed, or it has done a hundred: the
                median of fast models needs more of them, and they cost nothing.
        """
        steps = steps or _Steps(0, None)
        for engine, children in self._children.items():
            for model, child in zip(self._models, children):
                steps.next(f"{engine}: loading {model.name}")
                child.loaded()
                steps.next(f"{engine}: loading {model.name}", 1)
        rows = []
        for engine, children in self._children.items():
            children, until = children[: len(self._models)], time.perf_counter() + seconds
            for number in range(warmup + max(rounds, MOST)):
                if number >= warmup + rounds and time.perf_counter() >= until:
                    break
                # back and forth, so that nobody always follows the same neighbour
                for child in children if number % 2 == 0 else children[::-1]:
                    took = None if child.failed else child.time()
                    if took is not None and number >= warmup:
                        child.seconds.append(took)
                    what = "warming up" if number < warmup else f"round {number - warmup + 1}"
                    steps.next(f"{engine}: {what}", 1)
            rows += _rows(engine, self._models, children, self._batch)
        return rows


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until a process that is being started has an owner who will end it.

    Blocking the signal would not do: the thread that draws the progress bar takes it, and Python raises in this one.
    """
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C goes to the main thread
        yield
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt


def _rows(engine: str, models: Sequence[Path], children: Sequence[Child], batch: int) -> list[Row]:
    rows = []
    for model, child in zip(models, children):
        row = Row(engine, model, error=child.failed, remark=child.remark)
        if not child.failed:
            row.milliseconds = statistics.median(child.seconds) * 1e3
            row.images_per_second = batch / row.milliseconds * 1e3
        rows.append(row)
    first = rows[0].milliseconds
    for row in rows:
        if first and row.milliseconds:
            row.ratio = row.milliseconds / first
    return rows
