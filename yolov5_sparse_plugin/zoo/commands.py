"""The commands `yolov5-sparse zoo …`: list, show, get, add, serve, check."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin import stubs as stub
from yolov5_sparse_plugin.errors import ZooError
from yolov5_sparse_plugin.zoo import layout, locate
from yolov5_sparse_plugin.zoo.files import Unusable
from yolov5_sparse_plugin.zoo.sources import Settings, Source

DESCRIPTION = """\
Keep sparse models under an address, a stub, and start from them with --weights zoo:…

A stub: zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned75_quant-none, or short
zoo:yolov5-s-coco-pruned75_quantized. '?recipe_type=transfer' behind it asks for what a transfer starts from, and for
the recipe of a transfer. Looked for, in this order, in: zoo folders and the cache (nothing is asked of the network for
what they have), a mirror, the vendor's server.
"""
EPILOG = """\
examples:
  yolov5-sparse zoo add runs/train/exp zoo:yolov5-s-mydata-pruned60_quantized --zoo ~/zoo
                            pack a finished run into a zoo folder, which is made if need be
  yolov5 train --data data.yaml --sparse-zoo ~/zoo \\
      --weights 'zoo:yolov5-s-mydata-pruned60_quantized?recipe_type=transfer' \\
      --sparse-recipe 'zoo:yolov5-s-mydata-pruned60_quantized?recipe_type=transfer'
  yolov5-sparse zoo serve ~/zoo
                            offer it on this machine; any static server does, python -m http.server too
  yolov5-sparse zoo list --mirror http://127.0.0.1:8000
  yolov5-sparse zoo get zoo:yolov5-s-mydata-pruned60_quantized weights
                            fetch it, and print its path
  yolov5-sparse zoo check   verify what is in the zoo folders and in the cache

Set YOLOV5_SPARSE_ZOO, or 'zoo: DIR' in yolov5-sparse.yaml, to name the zoo folder once and for all.
Exit status: 0, 1 if 'check' finds something broken, 2 on errors, 130 after Ctrl-C.
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `zoo` to the parser of yolov5-sparse."""
    raw = argparse.RawDescriptionHelpFormatter
    zoo = commands.add_parser(
        "zoo",
        help="models by stub: list, show, get, add, serve, check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=raw,
    )
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--zoo", metavar=options.BY_NAME["zoo"].metavar, help=options.BY_NAME["zoo"].help)
    for name in ("mirror", "sources", "timeout"):
        option = options.BY_NAME[f"zoo_{name}"]
        where.add_argument(f"--{name}", metavar=option.metavar, help=option.help)
    actions = zoo.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[where], help="the models in the zoo folders, the cache and the mirror")
    show = actions.add_parser("show", parents=[where], help="a model's card and files, and where they are")
    get = actions.add_parser("get", parents=[where], help="fetch a model's files and print their paths")
    for action in (show, get):
        action.add_argument("stub", metavar="STUB")
    get.add_argument("kind", nargs="?", choices=layout.KINDS, help="only this file; default: all that there are")
    get.add_argument("--refresh", action="store_true", help="ask the servers again, whatever is on this machine")
    add = actions.add_parser("add", parents=[where], help="pack a finished run into a zoo folder")
    add.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a run, for example runs/train/exp")
    add.add_argument("stub", metavar="STUB", help="the address it gets")
    add.add_argument("--force", action="store_true", help="replace the model that has this address")
    serve = actions.add_parser("serve", help="offer a zoo folder on this machine (127.0.0.1), as a mirror")
    serve.add_argument("dir", type=Path, metavar="DIR")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0: any that is free")
    check = actions.add_parser(
        "check", parents=[where], help="verify sizes and sha256 in the zoo folders and the cache"
    )
    check.add_argument("--write-index", action="store_true", help="make the zoo folders' index.json anew first")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands; return its exit status."""
    actions = {"list": list_models, "show": show, "get": get, "add": add, "serve": serve, "check": check}
    return actions[arguments.action](arguments)


def settings(arguments: argparse.Namespace) -> Settings:
    """Merge the command's own options with environment and config file."""
    typed = {f"sparse_zoo_{name}": getattr(arguments, name) for name in ("mirror", "sources", "timeout")}
    typed["sparse_zoo"] = arguments.zoo
    return Settings.of(options.resolve({k: v for k, v in typed.items() if v is not None}, command="val"))


def list_models(arguments: argparse.Namespace) -> int:
    chosen, shown = settings(arguments), 0
    silent: list[str] = []
    for source, index in indexes(chosen, silent):
        print(f"{source.where}:")
        for place, entry in sorted(index.items()):
            print("  " + line_of(place, entry))
        shown += len(index)
    for reason in silent:
        print(f"yolov5-sparse: {reason}", file=sys.stderr)
    if not shown:
        print("No models. Add one with 'yolov5-sparse zoo add RUN_DIR STUB --zoo DIR'; 'yolov5-sparse zoo --help'.")
    return 0


def indexes(chosen: Settings, silent: list[str]) -> Iterator[tuple[Source, layout.Index]]:
    """Yield the sources that can list their models; the reasons of those that should and can't go to `silent`."""
    for source in chosen.in_order():
        try:
            index = source.index()
        except Unusable as error:
            if source.where != source.name:  # an address was given
                silent.append(f"{source.where}: {error}")
            continue
        if index:
            yield source, index


def line_of(place: str, entry: dict[str, Any]) -> str:
    about = entry["about"]
    megabytes = sum(sums["size"] for sums in entry["files"].values()) / 1e6
    words = [about.get("phase", "-"), percent(about.get("sparsity"))]
    words += [f"mAP50 {about['map50']:.3f}"] if "map50" in about else []
    return f"{stub.PREFIX}{place}  {', '.join(words)}, {len(entry['files'])} files, {megabytes:.1f} MB"


def percent(sparsity: float | None) -> str:
    return "zeros unknown" if sparsity is None else f"{sparsity:.1%} zeros"


def show(arguments: argparse.Namespace) -> int:
    chosen, wanted = settings(arguments), stub.parse(arguments.stub)
    silent: list[str] = []
    for source, index in indexes(chosen, silent):
        for place in wanted.places:
            if place in index:
                print(f"{source.where}\n{line_of(place, index[place])}")
                for name, sums in index[place]["files"].items():
                    print(f"  {sums['size'] / 1e6:9.3f} MB  {sums.get('sha256', 'not in the index')[:16]:16}  {name}")
                with contextlib.suppress(Unusable):  # a model without a card
                    print_card(source.find(wanted, "card").path)
                return 0
    print_card(locate.find(wanted, "card", chosen, f"zoo show {arguments.stub}").path)
    return 0


def print_card(file: Path) -> None:
    """Print a card without its front matter."""
    print("\n" + file.read_text(encoding="utf-8", errors="replace").split("---\n", 2)[-1].strip())


def get(arguments: argparse.Namespace) -> int:
    chosen, wanted = settings(arguments), stub.parse(arguments.stub)
    if arguments.refresh:
        chosen = chosen.afresh()
    asked = f"zoo get {arguments.stub}"
    first = locate.find(wanted, arguments.kind or layout.KINDS[0], chosen, asked)
    if arguments.kind:
        print(first.path)
        return 0
    print(f"{layout.KINDS[0]:8} {first.path}")
    if first.source.startswith("directory"):  # what it has not, nobody is asked for
        chosen = replace(chosen, sources=("directory",))
    for kind in layout.KINDS[1:]:
        with contextlib.suppress(ZooError):
            print(f"{kind:8} {locate.find(wanted, kind, chosen, asked).path}")
    return 0


def add(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin.zoo import pack

    wanted, folders = stub.parse(arguments.stub), settings(arguments).directories
    if wanted.recipe_type:
        raise ZooError(f"zoo add {arguments.stub}: a '?' asks for a part of a model. Leave it out.")
    if not folders:
        raise ZooError("zoo add: into which zoo? Name its folder with --zoo DIR; it is made if it does not exist.")
    folder = pack.add(arguments.run, wanted, folders[0], arguments.force)
    for name, path in layout.contents(folder).items():
        print(f"  {path.stat().st_size / 1e6:9.3f} MB  {name}")
    print(f"{wanted} is in {folders[0]}. Start from it with --sparse-zoo {folders[0]} --weights {wanted}")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin.zoo.serve import make_server

    server = make_server(arguments.dir.resolve(), arguments.port)
    place, port = server.server_address[:2]
    address = f"http://{place!s}:{port}"
    print(f"Serving {arguments.dir} at {address} until Ctrl-C. Use it with --sparse-zoo-mirror {address}", flush=True)
    with server:
        server.serve_forever()
    return 0


def check(arguments: argparse.Namespace) -> int:
    from yolov5_sparse_plugin.zoo import check as checks

    chosen, broken = settings(arguments), 0
    roots = [(root, False) for root in chosen.directories] + [(chosen.cache, True)]
    for root, is_cache in roots:
        if not root.is_dir():
            if not is_cache:
                raise ZooError(f"zoo check --zoo {root}: there is no such folder.")
            continue
        if arguments.write_index and not is_cache:
            try:
                print(f"{root / layout.INDEX}: {checks.write_index(root)} models")
            except Unusable as error:
                raise ZooError(f"zoo check --write-index: {root}: {error}. Remove that file first.") from error
        sound, findings = checks.check(root, is_cache)
        print(f"{'cache ' if is_cache else ''}{root}: {sound} files verified, {len(findings)} faults")
        for finding in findings:
            print(f"  {finding}")
        broken += len(findings)
    return 1 if broken else 0
