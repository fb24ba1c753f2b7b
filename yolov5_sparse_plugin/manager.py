"""Who is registered, in what order, and who is blocked: the plugin manager.

Built-in hooks are plugins like any other. Registration order is a promise: DEFAULT_HOOKS, then entry points of the
group `yolov5_sparse` by name, then `--sparse-hooks` files as typed. pluggy calls the last registered first.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from yolov5_sparse_plugin import hookspecs, telemetry
from yolov5_sparse_plugin.errors import PluginError, SparsePluginError, ZooError, nearest
from yolov5_sparse_plugin.stubs import is_stub

if TYPE_CHECKING:
    from yolov5_sparse_plugin.options import SparseOptions

DEFAULT_HOOKS = (
    "zoo_weights",
    "sparse_training",
    "lr_and_stopping",
    "quantization_aware",
    "distillation",
    "sparse_checkpoints",
    "onnx_fixer",
    "export_report",
)


def load_file(path: str):
    """Import a drop-in file of hooks under a name of its own."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise PluginError(f"--sparse-hooks {path}: there is no such file.")
    telemetry.switch_off()  # it may bring a modifier, and import SparseML for it
    name = f"yolov5_sparse_hooks_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--sparse-hooks {path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"--sparse-hooks {path}: {type(error).__name__}: {error}") from error
    return module


def load_entry_points(manager: pluggy.PluginManager) -> None:
    """Register what installed packages offer."""
    try:
        manager.load_setuptools_entrypoints(hookspecs.PROJECT)
    except pluggy.PluginValidationError:
        raise
    except Exception as error:  # whatever somebody's package makes of being imported
        raise PluginError(
            f"an installed package with hooks (entry point group {hookspecs.PROJECT}: "
            f"{', '.join(entry_point_names())}) cannot be imported: {type(error).__name__}: {error}. Uninstall it, or "
            "block it with YOLOV5_SPARSE_DISABLE."
        ) from error


def create(files: Iterable[str] = (), blocked: Iterable[str] = ()) -> pluggy.PluginManager:
    """Build the manager of one run.

    Args:
        files: drop-in files, see `--sparse-hooks`.
        blocked: names that must not be registered, see YOLOV5_SPARSE_DISABLE.

    Raises:
        PluginError: a name in `blocked` is nobody's, or a hook's signature does not fit the contract; the message
            names plugin, hook and signature.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    blocked = list(blocked)
    for name in blocked:
        manager.set_blocked(name)
    candidates = set(DEFAULT_HOOKS)
    try:
        for name in DEFAULT_HOOKS:
            if name not in blocked:
                try:
                    module = importlib.import_module("yolov5_sparse_plugin.hooks." + name)
                except ModuleNotFoundError as error:
                    if error.name != "yolov5_sparse_plugin.hooks." + name:
                        raise
                    continue  # a hook file that somebody deleted is a capability less, not an error
                manager.register(module, name)
        load_entry_points(manager)
        candidates.update(entry_point_names())
        for path in files:
            name = Path(path).stem
            candidates.add(name)
            if manager.has_plugin(name):
                raise PluginError(f"--sparse-hooks {path}: there is a hook {name!r} already. Rename the file.")
            if name not in blocked:
                manager.register(load_file(path), name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"hook of {getattr(error, 'plugin', '?')!r} does not fit the contract: {error}") from error
    unknown = [name for name in blocked if name not in candidates]
    if unknown:
        raise PluginError(
            f"YOLOV5_SPARSE_DISABLE={','.join(blocked)}: no hook {unknown[0]!r}. " + nearest(unknown[0], candidates)
        )
    manager.add_hookcall_monitoring(lambda *_: None, name_the_hook)
    if os.environ.get("YOLOV5_SPARSE_TRACE", "0") not in ("", "0"):
        manager.trace.root.setwriter(lambda text: print(f"[yolov5-sparse] {text}", file=sys.stderr, end=""))
        manager.enable_tracing()
    return manager


def resolve(manager: pluggy.PluginManager, kind: str, address: str, options: SparseOptions) -> str:
    """Return the path that an address of weights or of a recipe stands for, the address itself where it is one.

    Raises:
        ZooError: it is a stub and no hook resolved it. YOLOv5 would take it for a file that is not there and train
            from random weights, without a word.
    """
    found = manager.hook.sparse_resolve(kind=kind, address=address, options=options) or address
    if is_stub(found):
        raise ZooError(
            f"{address}: no hook resolves this stub, and nothing starts from random weights instead. Registered: "
            f"{', '.join(name for name, plugin in manager.list_name_plugin() if plugin)}. Unblock zoo_weights "
            "(YOLOV5_SPARSE_DISABLE, or 'disable' in yolov5-sparse.yaml), or name a file."
        )
    return found


def entry_point_names() -> list[str]:
    from importlib.metadata import entry_points

    if sys.version_info >= (3, 10):
        return [point.name for point in entry_points(group=hookspecs.PROJECT)]
    return [point.name for point in entry_points().get(hookspecs.PROJECT, [])]


def name_the_hook(outcome, hook_name, hook_impls, kwargs) -> None:
    """Say which hook failed where an exception leaves one: the traceback alone shows pluggy's frames."""
    error = outcome.exception
    if error is None or isinstance(error, SparsePluginError) or not isinstance(error, Exception):
        return
    message = f"{type(error).__name__} in hook {hook_name} of {culprit(error, hook_impls)}: {error}"
    outcome.force_exception(PluginError(message).with_traceback(error.__traceback__))
    outcome.exception.__cause__ = error


def culprit(error: BaseException, hook_impls) -> str:
    """Return the name of the plugin in whose hook an exception was raised."""
    plugins = {impl.function.__code__: impl.plugin_name for impl in hook_impls}
    traceback, found = error.__traceback__, "a plugin"
    while traceback is not None:
        found = plugins.get(traceback.tb_frame.f_code, found)
        traceback = traceback.tb_next
    return found
