"""What this CPU can do for a sparse model: its cores, its vector and 8-bit instructions, and what to deploy on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# as Linux spells them; the last three multiply and add 8-bit integers in one instruction
VECTOR = ("avx2", "avx512f")
EIGHT_BIT = ("avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True)
class Features:
    """What is known of a CPU.

    Attributes:
        name: the vendor's name for it.
        cores: physical cores that this process may use (its affinity counts, a container's quota does not).
        flags: those of `VECTOR` and `EIGHT_BIT` that it has; None where the system does not say.
    """

    name: str
    cores: int
    flags: frozenset[str] | None

    def has(self, flag: str) -> bool | None:
        """Say whether the CPU has `flag`; None: not known."""
        return None if self.flags is None else flag in self.flags

    @property
    def eight_bit(self) -> list[str]:
        """The 8-bit instruction sets that it is known to have."""
        return [flag for flag in EIGHT_BIT if self.has(flag)]

    def __str__(self) -> str:
        words = {True: "yes", False: "no", None: "unknown"}
        shown = ", ".join(f"{flag} {words[self.has(flag)]}" for flag in (*VECTOR, *EIGHT_BIT))
        return f"{self.name}, {self.cores} physical core{'s' if self.cores != 1 else ''} available; {shown}"


def available() -> set[int]:
    """Return the numbers of the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def parse(text: str, allowed: Collection[int]) -> Features:
    """Read the text of Linux's /proc/cpuinfo.

    Args:
        text: one paragraph of `key : value` lines for each logical CPU.
        allowed: numbers of the logical CPUs to count cores of.
    """
    entries = []
    for paragraph in text.split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        entry = {key.strip(): value.strip() for key, _, value in pairs}
        if entry.get("processor", "").isdigit():
            entries.append(entry)
    # two hyper-threads share (physical id, core id); where a system gives neither, each logical CPU is a core
    cores = {
        (entry["physical id"], entry["core id"]) if {"physical id", "core id"} <= entry.keys() else entry["processor"]
        for entry in entries
        if int(entry["processor"]) in allowed
    }
    first = entries[0] if entries else {}
    name = first.get("model name") or platform.processor() or platform.machine() or "unknown CPU"
    flags = frozenset(first["flags"].split()) & {*VECTOR, *EIGHT_BIT} if "flags" in first else None
    return Features(name, len(cores) or len(allowed), flags)


def detect() -> Features:
    """Return the features of this machine's CPU; on systems other than Linux, only its name and its cores are known."""
    return parse(CPUINFO.read_text() if CPUINFO.is_file() else "", available())


def advice(features: Features) -> str:
    """Say in a sentence or two which model to deploy on such a CPU, and how to find out more."""
    compare = "export the pruned and the pruned-quantized model and compare them with 'yolov5-sparse bench'"
    if features.flags is None:
        return f"What this CPU computes in 8 bits is not known here: {compare}."
    if features.eight_bit:
        return (
            f"This CPU computes in 8 bits ({', '.join(features.eight_bit)}): deploy the pruned-quantized model, "
            "exported with --sparse-target onnxruntime or openvino. 'yolov5-sparse bench' measures what it gains here."
        )
    if features.has("avx2"):
        return (
            f"This CPU has AVX2 but no VNNI, so 8 bits gain less: {compare}. Zeros alone gain speed in DeepSparse only "
            "(1.5 times at batch 64, as its makers published), not in ONNX Runtime or OpenVINO."
        )
    return (
        "This CPU has neither AVX2 nor VNNI, and no gain in speed is known for such a one: pruned and quantized models "
        f"are smaller there; {compare}."
    )
