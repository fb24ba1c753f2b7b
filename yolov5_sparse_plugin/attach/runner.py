"""Run a script as `python script.py` does, with the plugin in it where it is one of a YOLOv5 checkout's.

Nothing that is imported tells us about the program itself, `__main__`: its functions call each other by names of a
namespace that no import hook sees. So it is executed in two parts, and attached to between them, where
`if __name__ == "__main__":` stands.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from yolov5_sparse_plugin.errors import OptionError, plainly

USAGE = """\
usage: python -m yolov5_sparse_plugin SCRIPT [ARGUMENT ...]
       yolov5-sparse run SCRIPT [ARGUMENT ...]
       torchrun --nproc_per_node N -m yolov5_sparse_plugin SCRIPT [ARGUMENT ...]

Run a script of a git checkout of YOLOv5 (train.py, val.py, detect.py, export.py) with the options of
yolov5-sparse-plugin; any other script runs as with python. Options: SCRIPT --help
"""
FUTURE = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})


def main(words: list[str]) -> int:
    """Run the script that `words` name, or print how to; return the exit status of what ends without an exception."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    path = os.path.join(os.getcwd(), words[0])  # as Python makes it, not tidied up
    with plainly():
        source = read(words[0])
    try:
        execute(source, path, words)
    except BaseException:
        sys.excepthook = from_script_on(sys.excepthook, path)
        raise
    return 0


def read(script: str) -> bytes:
    """Return the text of a script.

    Raises:
        OptionError: it is not there.
    """
    try:
        return Path(script).read_bytes()
    except OSError as error:
        raise OptionError(
            f"run {script}: cannot be read ({error.strerror}). Name a script, for example train.py in a checkout of "
            "YOLOv5."
        ) from error


def execute(source: bytes, path: str, words: list[str]) -> None:
    """Make this process look as if it had been started with `python SCRIPT …`, and execute the script."""
    from yolov5_sparse_plugin import quiet
    from yolov5_sparse_plugin.attach import doorways, modules, scripts
    from yolov5_sparse_plugin.attach.command_line import exit_plainly
    from yolov5_sparse_plugin.hosts import checkout

    sys.argv = list(words)
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = os.path.dirname(os.path.realpath(path))  # where -m and console scripts have their own
    main_module = sys.modules["__main__"] = as_main(path)
    namespace = vars(main_module)
    found = checkout.script_name(os.path.realpath(path))
    if found is None:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)
        return
    host, name = found
    quiet.down()
    modules.attach()
    checkout.begin(host)
    tree = ast.parse(source, path)
    guards = [i for i, node in enumerate(tree.body) if isinstance(node, ast.If) and is_guard(node.test)]
    if not guards:
        doorways.moved_on(host, name, 'if __name__ == "__main__":')
    first = guards[0] if guards else len(tree.body)
    before = compile(ast.Module(tree.body[:first], tree.type_ignores), path, "exec", dont_inherit=True)
    rest = ast.Module(tree.body[first:], tree.type_ignores)
    after = compile(rest, path, "exec", flags=before.co_flags & FUTURE, dont_inherit=True)
    exec(before, namespace)
    scripts.attach_script(host, main_module, name)
    exit_plainly(lambda: exec(after, namespace))


def as_main(path: str) -> ModuleType:
    """Return an empty `__main__` with the attributes that Python gives it for a script."""
    module = ModuleType("__main__")
    module.__dict__.update(
        __file__=path,
        __cached__=None,
        __annotations__={},
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", path),
    )
    return module


def is_guard(test: ast.expr) -> bool:
    return ast.unparse(test) in ("__name__ == '__main__'", "'__main__' == __name__")


def from_script_on(excepthook: Any, path: str) -> Any:
    """Return a `sys.excepthook` that leaves out the frames below the script: ours, and those that started us."""

    def shortened(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
            traceback = traceback.tb_next
        excepthook(kind, error.with_traceback(traceback), traceback)

    return shortened
