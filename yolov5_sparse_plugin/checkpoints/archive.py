"""Look into a checkpoint's file without unpickling anything, with the eyes of what reads it: torch's own reader.

A zip file can say one thing to Python and another to torch.
"""

from __future__ import annotations

import contextlib
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from yolov5_sparse_plugin.errors import CheckpointError, SparsePluginError

INFLATED = 4  # times a file's size; torch stores its records as they are
ZIP = b"PK\x03\x04"  # torch since 1.6; before, a pickle


def damaged(file: Any, why: Any) -> CheckpointError:
    return CheckpointError(
        f"{file}: not a checkpoint that torch can read, or it is damaged ({why}). Use another one of the run (best.pt, "
        "last.pt, best_*.pt), or copy or download it again."
    )


@contextlib.contextmanager
def reading(file: Any) -> Iterator[None]:
    """Say of whatever goes wrong while `file` is read, or a model made of it, that the file is damaged.

    Raises:
        CheckpointError: what is wrong with it.
    """
    try:
        yield
    except SparsePluginError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: there is no such file. Check the path.") from error
    except Exception as error:  # what is in a file can make anything fail
        raise damaged(file, str(error) or type(error).__name__) from error


def is_path(file: Any) -> bool:
    return isinstance(file, (str, os.PathLike)) and os.path.isfile(file)


def is_zip(file: Any) -> bool:
    """Return whether torch takes `file` for an archive: by its first bytes."""
    with open(file, "rb") as stream:
        return stream.read(len(ZIP)) == ZIP


def check_whole(file: Any) -> None:
    """Refuse a file that is no checkpoint by its first bytes, or that starts as torch's zip archives do but has no end.

    Raises:
        CheckpointError: a download or a copy was interrupted, or brought something else.
    """
    if isinstance(file, (str, os.PathLike)) and str(file) and os.path.isdir(file):
        raise CheckpointError(f"{file}: this is a folder. Name the checkpoint in it, a .pt file such as best.pt.")
    if not is_path(file):
        return
    with open(file, "rb") as stream:
        start = stream.read(256)
    zipped = start.startswith(ZIP)
    if zipped and not zipfile.is_zipfile(file):
        raise damaged(file, "its end is missing")
    if not zipped and not start.startswith(b"\x80"):  # a pickle, as torch wrote before 1.6
        page = start.lstrip()[:1] == b"<"
        raise damaged(file, "it is empty" if not start else "it is a web page" if page else "it begins as none does")


def check_sums(file: Any) -> None:
    """Refuse an archive whose contents are not those whose checksums it has; torch does not look.

    Raises:
        CheckpointError: a disk or a copy changed some of it.
    """
    if is_path(file) and is_zip(file):
        with reading(file), zipfile.ZipFile(file) as archive:
            whole = sum(record.file_size for record in archive.infolist())
            if whole > INFLATED * os.path.getsize(file):
                raise damaged(file, f"it claims to hold {whole / 1e6:.0f} MB")
            changed = archive.testzip()
            if changed is not None:
                raise damaged(file, f"the checksum of {changed} is wrong")


def check_kind(file: Any) -> None:
    """Refuse TorchScript, which torch would run.

    Raises:
        CheckpointError: it is that, or no archive that torch can read.
    """
    try:
        program = "constants.pkl" in records(file).get_all_records()
    except RuntimeError as error:
        raise damaged(file, str(error).splitlines()[0]) from error
    if program:
        raise CheckpointError(
            f"{file}: a TorchScript file, not a checkpoint: it is a program, not only weights. Name the "
            "checkpoint that it was exported from, a .pt file of a training run."
        )


def records(file: Any) -> Any:
    return torch._C.PyTorchFileReader(os.fspath(file))


def stored(file: Any) -> Callable[[str], int]:
    """Return a function: key of a storage -> how many bytes `file` has of it, as torch's reader finds them."""
    if not is_zip(file):
        size = os.path.getsize(file)
        return lambda key: size
    reader = records(file)  # not kept: it holds the file open
    sizes = {name: len(reader.get_record(name)) for name in reader.get_all_records() if name.startswith("data/")}
    return lambda key: sizes.get(f"data/{key}", 0)


def pickle_of(file: Any) -> bytes | None:
    """Return the pickle in an archive, None where there is none, or where it is no archive."""
    try:
        return records(file).get_record("data.pkl") if is_path(file) and is_zip(file) else None
    except (RuntimeError, OSError):
        return None


def check_numbers(state: Mapping[str, Any], file: Any) -> None:
    """Refuse a state dict with values that are no numbers, and quantizers without a scale.

    Raises:
        CheckpointError: naming the first; observers' ranges are infinite until they have seen something.
    """
    for name, value in state.items():
        leaf = name.rpartition(".")[2]
        if not torch.is_tensor(value) or not value.is_floating_point() or leaf in ("min_val", "max_val"):
            continue
        if not torch.isfinite(value).all() or (leaf == "scale" and not (value > 0).all()):
            raise damaged(file, f"{name} holds what is no {'scale' if leaf == 'scale' else 'number'}")


def contents(file: Any) -> tuple[set[str], list[str | None]]:
    """Look into a checkpoint's pickle; nothing is unpickled for it.

    Returns:
        The names (`module name`) of what it uses, `?` for one that a pickle of protocol 4 assembles on its stack; its
        strings and `None`s in order, so that a key of the dict stands before its value where that is one of them.
    """
    names: set[str] = set()
    strings: list[str | None] = []
    try:
        for code, argument in _opcodes(file):
            if code in ("GLOBAL", "INST"):
                names.add(argument)
            elif code == "STACK_GLOBAL":
                names.add("?")
            elif code == "NONE" or isinstance(argument, str):
                strings.append(argument)
    except (ValueError, OSError):
        return set(), []
    return names, strings


def _opcodes(file: Any) -> Iterator[tuple[str, Any]]:
    if is_zip(file):
        yield from ((op.name, argument) for op, argument, _ in pickletools.genops(pickle_of(file) or b"."))
        return
    with open(file, "rb") as stream:  # before torch 1.6: magic number, protocol, system, checkpoint; then raw tensors
        if stream.read(1) != b"\x80":
            return
        stream.seek(0)
        for _ in range(4):
            yield from ((op.name, argument) for op, argument, _ in pickletools.genops(stream))
