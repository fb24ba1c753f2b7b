"""The four places a model can come from: a directory, a mirror, the local cache, the vendor's server.

What lies on this machine goes first, in whatever order the sources are listed: no network call is made for a model
that is at hand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from yolov5_sparse_plugin.options import ZOO_SOURCES, SparseOptions
from yolov5_sparse_plugin.stubs import Stub
from yolov5_sparse_plugin.zoo import client, files, layout
from yolov5_sparse_plugin.zoo.files import Unusable

LOCAL = ("directory", "cache")
VENDOR_URL = "https://api.neuralmagic.com"


@dataclass(frozen=True)
class Found:
    """A file that answers a request, complete and verified as far as its source allows."""

    path: Path
    source: str


@dataclass(frozen=True)
class Settings:
    """Where to look.

    Attributes:
        directories: zoo folders. mirror: address of a static server, None: there is none.
        sources: names of those to try. timeout: seconds that a server may stay silent.
        cache: folder of what was downloaded, the same as the vendor's client has.
    """

    directories: tuple[Path, ...] = ()
    mirror: str | None = None
    sources: tuple[str, ...] = ZOO_SOURCES
    timeout: float = 20.0
    cache: Path = Path()

    @classmethod
    def of(cls, options: SparseOptions) -> Settings:
        return cls(
            tuple(Path(folder).expanduser().resolve() for folder in options.zoo),
            options.zoo_mirror,
            tuple(options.zoo_sources),
            options.zoo_timeout,
            cache_folder(),
        )

    def in_order(self) -> list[Source]:
        """Return the sources to try: those on this machine first."""
        names = sorted(self.sources, key=lambda name: name not in LOCAL)
        return [{"directory": Directory, "cache": Cache, "mirror": Mirror, "vendor": Vendor}[n](self) for n in names]

    def afresh(self) -> Settings:
        """Return the same without what is on this machine."""
        return replace(self, sources=tuple(name for name in self.sources if name not in LOCAL))


def cache_folder() -> Path:
    """Return the folder where the vendor's client keeps what it downloads; so do we."""
    named = os.environ.get("SPARSEZOO_MODELS_PATH")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "sparsezoo"


class Source:
    """One place to look; `find` answers or says why it cannot, `index` lists what there is."""

    name = ""

    def __init__(self, settings: Settings):
        self.settings = settings

    @property
    def where(self) -> str:
        """What it is, for messages."""
        return self.name

    def find(self, stub: Stub, kind: str) -> Found:
        """Return the file that answers a request.

        Raises:
            Unusable: why it cannot.
        """
        raise NotImplementedError

    def index(self) -> layout.Index:
        """Return what is known to be here."""
        return {}


class Directory(Source):
    name = "directory"

    @property
    def where(self) -> str:
        return "directory " + os.pathsep.join(map(str, self.settings.directories)) if self.roots else "directory"

    @property
    def roots(self) -> tuple[Path, ...]:
        return self.settings.directories

    def find(self, stub: Stub, kind: str) -> Found:
        if not self.roots:
            raise Unusable("none was given (--sparse-zoo DIR)")
        reasons = []
        for root in self.roots:
            try:
                return self._find(root, stub, kind)
            except Unusable as error:
                reasons.append(f"{root}: {error}" if len(self.roots) > 1 else str(error))
            except OSError as error:
                reasons.append(f"{error.filename}: {error.strerror}")
        raise Unusable("; ".join(reasons))

    def _find(self, root: Path, stub: Stub, kind: str) -> Found:
        if not root.is_dir():
            raise Unusable("there is no such folder")
        for folder, sums in self._folders(root, stub):
            found = layout.contents(folder)
            name = layout.first(stub, kind, {**found, **sums})  # a file that is listed and gone is broken, not absent
            if name not in found:
                raise Unusable(f"{folder / name} is gone, {layout.INDEX} lists it; see 'yolov5-sparse zoo check'")
            layout.check_file(found[name], sums.get(name))
            return Found(found[name], f"{self.name} {root}")
        raise Unusable("has no such model")

    def _folders(self, root: Path, stub: Stub) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the folders that hold this model, and what the index says of their files."""
        index = layout.own_index(root)
        for place in stub.places:
            if place in index or layout.contents(root / place):
                yield root / place, index.get(place, {"files": {}})["files"]

    def index(self) -> layout.Index:
        found: layout.Index = {}
        for root in self.roots:
            index = layout.own_index(root)
            for place, folder in layout.models(root).items() if root.is_dir() else ():
                sizes = {name: {"size": path.stat().st_size} for name, path in layout.contents(folder).items()}
                entry = {"files": sizes, "about": layout.about(folder / layout.CARD)}
                found.setdefault(place, index.get(place, entry))
        return found


class Cache(Directory):
    """What was downloaded before: by this plugin, in a zoo's layout; by the vendor's client, in folders of its own."""

    name = "cache"

    @property
    def where(self) -> str:
        return f"cache {self.settings.cache}"

    @property
    def roots(self) -> tuple[Path, ...]:
        return (self.settings.cache,)

    def _folders(self, root: Path, stub: Stub) -> Iterator[tuple[Path, dict[str, Any]]]:
        yield from super()._folders(root, stub)
        for folder in sorted(root.glob(f"*/{stub.short}")):  # of the client: <namespace>/<short form>
            if layout.contents(folder):
                yield folder, {}


class Downloading(Source):
    """A source whose files land in the cache."""

    def _target(self, place: str) -> Path:
        return self.settings.cache / place

    def _lock(self, place: str) -> Any:
        return files.locked(self.settings.cache / ".locks" / f"{place.replace('/', '.')}.lock")

    def _keep(self, place: str, name: str, sums: dict[str, Any], about: dict[str, Any]) -> Found:
        layout.write_index(self.settings.cache, {place: {"files": {name: sums}, "about": about}}, merge=True)
        return Found(self._target(place) / name, self.where)

    def find(self, stub: Stub, kind: str) -> Found:
        try:
            return self._find(stub, kind)
        except OSError as error:
            raise Unusable(f"the cache {self.settings.cache} cannot be written ({error.strerror or error})") from error

    def _find(self, stub: Stub, kind: str) -> Found:
        raise NotImplementedError


class Mirror(Downloading):
    name = "mirror"
    _index: layout.Index | None = None

    @property
    def where(self) -> str:
        return f"mirror {self.settings.mirror}" if self.settings.mirror else "mirror"

    def _find(self, stub: Stub, kind: str) -> Found:
        index = self.index()
        for place in stub.places:
            if place in index:
                listed = index[place]["files"]
                return self._fetch(place, layout.first(stub, kind, listed), listed, index[place]["about"])
        raise Unusable("has no such model")

    def _fetch(self, place: str, name: str, listed: dict[str, Any], about: dict[str, Any]) -> Found:
        from yolov5_sparse_plugin.zoo import download

        folder, url = self._target(place), f"{str(self.settings.mirror).rstrip('/')}/{quote(f'{place}/{name}')}"
        with self._lock(place):
            try:
                files.verify(folder / name, listed[name])
            except (OSError, Unusable):
                download.file(url, folder / name, listed[name], self.settings.timeout, f"{place.split('/')[-1]}/{name}")
            before = layout.own_index(self.settings.cache).get(place, {"files": {}})["files"]
            stale = [n for n, sums in before.items() if listed.get(n) != sums and n != name]
            for old in stale:  # of a model that the mirror has replaced
                (folder / old).unlink(missing_ok=True)
            kept = {n: sums for n, sums in before.items() if listed.get(n) == sums}
            entry = {"files": {**kept, name: listed[name]}, "about": {**about, "from": self.settings.mirror}}
            layout.write_index(self.settings.cache, {place: entry})
        return Found(folder / name, self.where)

    def index(self) -> layout.Index:
        from yolov5_sparse_plugin.zoo import download  # its libraries take half of what `yolov5-sparse --help` would

        url = self.settings.mirror
        if not url:
            raise Unusable("none was given (--sparse-zoo-mirror URL)")
        if urlsplit(url).scheme not in ("http", "https"):
            raise Unusable("its address must start with http:// or https://")
        if self._index is None:
            self._index = layout.read_index(download.text(f"{url.rstrip('/')}/{layout.INDEX}", self.settings.timeout))
        return self._index


class Vendor(Downloading):
    """The vendor's server through its own client, in a process of its own: see client.py."""

    name = "vendor"

    @property
    def where(self) -> str:
        return f"vendor {os.environ.get('SPARSEZOO_API_URL') or VENDOR_URL}"

    def find(self, stub: Stub, kind: str) -> Found:
        left_out = client.missing()
        if left_out:
            raise Unusable(left_out)
        return super().find(stub, kind)

    def _find(self, stub: Stub, kind: str) -> Found:
        with self._lock(stub.path) as waited:
            if waited:  # somebody else has just fetched it
                with contextlib.suppress(Unusable):
                    return Cache(self.settings).find(stub, kind)
            scratch = Path(tempfile.mkdtemp(prefix=".vendor-", dir=self.settings.cache))
            try:
                return self._fetch(stub, kind, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _fetch(self, stub: Stub, kind: str, scratch: Path) -> Found:
        names = layout.candidates(stub, kind)
        answer = client.ask(stub.addresses, names, scratch, self.settings.timeout)
        name, file = answer.get("name"), scratch / "file"
        if "error" in answer or name not in names:
            raise Unusable(str(answer.get("error", f"its client names {name!r}")))
        if not file.is_file() or file.is_symlink():
            raise Unusable(f"its client left no {name}")
        size = file.stat().st_size
        if size != answer.get("size"):
            raise Unusable(f"{name} arrived with {size} bytes, the server lists {answer.get('size')}")
        layout.check_file(file.rename(scratch / Path(name).name), None)
        target = self._target(stub.path) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / target.name, target)
        return self._keep(stub.path, name, {"size": size, "sha256": files.sha256(target)}, {"from": self.where})
