"""Verify the models of a zoo folder or of the cache against the index: what is broken, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolov5_sparse_plugin.zoo import files, layout


@dataclass(frozen=True)
class Finding:
    """One fault: where it is, what it is, what to do."""

    place: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}. {self.mend}"


def check(root: Path, cache: bool = False) -> tuple[int, list[Finding]]:
    """Verify a folder; return how many files are sound, and what is not.

    Args:
        cache: whether it is the cache, whose files can be fetched again.
    """
    findings: list[Finding] = []
    try:
        index = layout.read_index((root / layout.INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        index = {}
    except (files.Unusable, UnicodeDecodeError) as error:
        index = {}
        findings.append(Finding(str(root), str(error), "Make it anew with --write-index."))
    again = "Fetch it again with 'yolov5-sparse zoo get --refresh zoo:{0}'."
    from_copy = "Put it back from a copy, add the run again with --force, or accept what is there with --write-index."
    sound = 0
    present = layout.models(root)
    for place in sorted({*index, *present}):
        listed = index.get(place, {"files": {}})["files"]
        found = layout.contents(present[place]) if place in present else {}
        for name in sorted({*listed, *found}):
            try:
                if name not in found:
                    raise files.Unusable("listed in the index, but not there")
                layout.check_file(found[name], listed.get(name))
                if name not in listed:
                    unlisted = Finding(f"{place}/{name}", "not in the index", "Take it in with --write-index.")
                    findings += [] if cache else [unlisted]
                sound += name in listed or cache
            except files.Unusable as error:
                mend = again.format(place) if cache else from_copy
                findings.append(Finding(f"{place}/{name}", str(error), mend))
    return sound, findings


def write_index(root: Path) -> int:
    """Make the index of a zoo folder anew, of the models that are there; return how many.

    Raises:
        files.Unusable: a file is damaged, as far as its format tells.
    """
    present = layout.models(root)
    for folder in present.values():
        for path in layout.contents(folder).values():
            layout.check_file(path, None)
    gone = dict.fromkeys(set(layout.own_index(root)) - set(present))
    layout.write_index(root, {**gone, **{place: layout.describe(folder) for place, folder in present.items()}})
    return len(present)
