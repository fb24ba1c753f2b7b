"""The folder of a zoo model: which of its files answers which request.

    training/model.pt                 the finished model
    training/model.ckpt.pt            what a transfer starts from (`?recipe_type=transfer`)
    recipe/recipe_original.md         how it was made
    recipe/recipe_transfer_learn.md   how to carry it over to other data
    deployment/model.onnx             ready for an engine
    model.md                          about it

The vendor's client keeps the files of a model side by side in its cache, without these folders: that is read as well.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from yolov5_sparse_plugin import yaml_text
from yolov5_sparse_plugin.stubs import PARTS, Stub, is_word
from yolov5_sparse_plugin.zoo import files

KINDS = ("weights", "recipe", "onnx", "card")
MODEL, CHECKPOINT, ONNX, CARD = "training/model.pt", "training/model.ckpt.pt", "deployment/model.onnx", "model.md"
ORIGINAL, TRANSFER = "recipe/recipe_original.md", "recipe/recipe_transfer_learn.md"
INDEX = "index.json"
FORMAT = "yolov5-sparse-zoo/1"
_FILE = re.compile(r"(training/|recipe/|deployment/)?[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Index = dict[str, dict[str, Any]]


def candidates(stub: Stub, kind: str) -> list[str]:
    """Return the names, within a model's folder, of the files that answer a request; the best one first."""
    if kind == "weights":
        names = [CHECKPOINT, MODEL] if stub.transfer else [MODEL]
    elif kind == "recipe":
        wanted = stub.recipe_type or "original"
        kinds = {"original": ["_original", ""], "transfer": ["_transfer_learn", "_transfer"]}
        kinds["transfer_learn"] = kinds["transfer"]
        stems = kinds.get(wanted, ["_" + wanted])
        names = [f"recipe/recipe{stem}.{suffix}" for stem in stems for suffix in ("md", "yaml")]
    else:
        names = [ONNX] if kind == "onnx" else [CARD]
    return names + [name.split("/")[1] for name in names if "/" in name]


def first(stub: Stub, kind: str, present: Iterable[str]) -> str:
    """Return the file that answers a request, of those that are present.

    Raises:
        files.Unusable: none does; says what there is instead.
    """
    present = list(present)
    for name in candidates(stub, kind):
        if name in present:
            return name
    stems = [Path(name).stem for name in present]
    recipes = ", ".join(sorted(stem[len("recipe_") :] for stem in stems if stem.startswith("recipe_")))
    if kind == "recipe" and recipes:
        raise files.Unusable(f"has no recipe {stub.recipe_type or 'original'!r}; this model's recipes: {recipes}")
    raise files.Unusable(f"has the model, but no {candidates(stub, kind)[0]}")


def contents(folder: Path) -> dict[str, Path]:
    """Return a model folder's files, name within it -> path; hidden ones and links out of it are not part of it."""
    found = {}
    root = folder.resolve()
    for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*")):
        name = path.relative_to(folder).as_posix()
        if _FILE.fullmatch(name) and path.is_file() and path.resolve().is_relative_to(root):
            found[name] = path
    return found


def models(root: Path) -> dict[str, Path]:
    """Return the model folders of a zoo, place -> path."""
    folders = {path.relative_to(root).as_posix(): path for path in sorted(root.glob("/".join(["*"] * PARTS)))}
    return {place: path for place, path in folders.items() if is_place(place) and contents(path)}


def is_place(place: Any) -> bool:
    return isinstance(place, str) and place.count("/") == PARTS - 1 and all(is_word(part) for part in place.split("/"))


def about(card: Path) -> dict[str, Any]:
    """Return what a model card's front matter says of `phase`, `sparsity`, `map50` and `from`."""
    try:
        found = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.S)
        said = yaml_text.load(found.group(1)) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        said = None
    return _plain(said)


def _plain(said: Any) -> dict[str, Any]:
    """Keep of a card what is shown of it: numbers, and text without a terminal's control characters."""
    said = said if isinstance(said, dict) else {}
    shares = {k: said.get(k) for k in ("sparsity", "map50")}
    kept: dict[str, Any] = {k: share for k, share in shares.items() if type(share) in (int, float) and 0 <= share <= 1}
    texts = {k: said[k][:200] for k in ("phase", "from") if isinstance(said.get(k), str)}
    return {**kept, **{k: "".join(filter(str.isprintable, text)) for k, text in texts.items()}}


def describe(folder: Path) -> dict[str, Any]:
    """Return a model's entry in the index: size in bytes and sha256 of each file, and what its card says."""
    found = contents(folder)
    sums = {name: {"size": path.stat().st_size, "sha256": files.sha256(path)} for name, path in found.items()}
    return {"files": sums, "about": about(folder / CARD)}


def read_index(text: str) -> Index:
    """Check an index, which may come from anywhere: place -> {"files": {name: {size, sha256}}, "about": {…}}.

    Raises:
        files.Unusable: it is none, or names a file outside of its own folder.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise files.Unusable(f"{INDEX} is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("models"), dict):
        raise files.Unusable(f"{INDEX} is not an index of format {FORMAT!r}")
    index: Index = {}
    for place, entry in content["models"].items():
        listed = entry.get("files") if isinstance(entry, dict) else None
        if not is_place(place) or not isinstance(listed, dict):
            raise files.Unusable(f"{INDEX} lists {place!r}, which is no model")
        index[place] = {"files": _checked(place, listed), "about": _plain(entry.get("about"))}
    return index


def _checked(place: str, listed: dict[str, Any]) -> dict[str, Any]:
    for name, sums in listed.items():
        size, digest = (sums.get("size"), sums.get("sha256")) if isinstance(sums, dict) else (None, None)
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if not _FILE.fullmatch(name) or ".." in name:
            raise files.Unusable(f"{INDEX} names {name!r} in {place}, which is not a file of a model's folder")
        if not whole or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise files.Unusable(f"{INDEX} gives no size and sha256 of {place}/{name}")
    return listed


def write_index(root: Path, changed: dict[str, dict[str, Any] | None], merge: bool = False) -> None:
    """Set the entries of some models in a zoo's index, None: take it out; the others stay as they are.

    Args:
        merge: keep the files that an entry lists already.
    """
    with files.locked(root / f".{INDEX}.lock"):
        index = own_index(root)
        for place, entry in changed.items():
            before = index.pop(place, {"files": {}})
            if entry is not None:
                index[place] = {**entry, "files": {**before["files"], **entry["files"]}} if merge else entry
        content = {"format": FORMAT, "models": dict(sorted(index.items()))}
        files.write(root / INDEX, (json.dumps(content, indent=1) + "\n").encode())


def own_index(root: Path) -> Index:
    """Read the index of a folder on this machine; empty where there is none, or a damaged one.

    `yolov5-sparse zoo check` says that it is damaged, and makes it anew.
    """
    try:
        return read_index((root / INDEX).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, files.Unusable):
        return {}


def check_file(path: Path, sums: dict[str, Any] | None) -> None:
    """Make sure that a file is complete: against its entry in the index, else as far as its format tells.

    Raises:
        files.Unusable: it is not.
    """
    if sums is not None:
        files.verify(path, sums)
    elif path.stat().st_size == 0:
        raise files.Unusable(f"{path.name} is empty")
    elif path.suffix == ".pt":
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise files.Unusable(f"{path.name} is not a complete checkpoint") from error
        if bad:
            raise files.Unusable(f"{path.name} is damaged (in {bad})")
