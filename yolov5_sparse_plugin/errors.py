"""The errors that a user can cause, in plain words: what was asked, what was found, what to do."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn, TypeVar


class SparsePluginError(Exception):
    """Base class; `exit_status` is what a command returns for it.

    What a message quotes may be a stranger's: a terminal shows its control characters, and does not obey them.
    """

    exit_status = 2

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class OptionError(SparsePluginError):
    """An option is misspelt, has the wrong type or contradicts another."""


class RecipeError(SparsePluginError):
    """A recipe cannot be read, or does not fit the model or the length of the run."""


class CheckpointError(SparsePluginError):
    """A weights file is missing, is not a checkpoint, or does not fit what was asked."""


class TrainingError(SparsePluginError):
    """A run cannot begin, or cannot go on; the checkpoints of its epochs before are what they were."""


class HostError(SparsePluginError):
    """This YOLOv5 lacks a name that the plugin needs; nothing was changed."""


class ExportError(SparsePluginError):
    """A model cannot be exported as asked; no file was written."""


class BenchError(SparsePluginError):
    """A model or an engine that was named cannot be benchmarked; nothing was measured."""


class ZooError(SparsePluginError):
    """A stub is misspelt, or no source has its file; nothing was started."""


class PluginError(SparsePluginError):
    """A hook, built in or a third party's, is invalid or failed."""


Value = TypeVar("Value")


def there(value: Value | None, name: str, when: str) -> Value:
    """Return what a run or an export has come to have.

    Args:
        name: how a hook asked for it, `run.model`. when: what has to come first, as a sentence.

    Raises:
        PluginError: it has not come that far.
    """
    if value is None:
        raise PluginError(f"{name}: it is not there yet. {when}")
    return value


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return a sentence that names the `known` words closest to `word`, or lists them if none is close."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=count, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "Known: " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "") + "."


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Let a command end in a sentence where it ends in an error of ours; see `end`."""
    try:
        yield
    except SparsePluginError as error:
        end(error)


def end(error: SparsePluginError) -> NoReturn:
    """Print an error as a sentence and exit with its status; with `YOLOV5_SPARSE_TRACE=1` a traceback follows."""
    print(f"yolov5-sparse: error: {error}", file=sys.stderr)
    if os.environ.get("YOLOV5_SPARSE_TRACE", "0") not in ("", "0"):
        raise error
    raise SystemExit(error.exit_status) from None
