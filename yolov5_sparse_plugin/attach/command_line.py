"""How the options of YOLOv5's commands arrive, by argparse, by python-fire or as keywords, and ours beside them."""

from __future__ import annotations

import atexit
import gc
import inspect
import sys
from typing import Any, Callable

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.errors import OptionError, plainly
from yolov5_sparse_plugin.hosts.log import Said
from yolov5_sparse_plugin.hosts.patchset import View

# what the user typed, from the doorway (`run`, `run_cli`, `parse_opt`) to `train()`; `main` replaces `opt` on resume
TYPED: dict[str, Any] = {}
# what the last parser made of them, defaults included: SparseML's scripts hand that over as keywords
PARSED: dict[str, Any] = {}


def exit_plainly(call: Callable[[], Any]) -> Any:
    """Run a command; an error of ours ends it, and so does an interrupt of which a run has said what it means."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # else Python looks for garbage among all that torch and YOLOv5 hold: 1.5 s
    try:
        with plainly():
            return call()
    except KeyboardInterrupt as interrupt:
        if not getattr(interrupt, "said", False):  # not during a sparse run: upstream's own traceback
            raise
        raise SystemExit(getattr(interrupt, "exit_status", 130)) from None


def parse_opt(original: Callable, command: str = "train") -> Callable:
    """Add the sparse options to the parser that upstream's parse_opt builds, and note what was typed."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        namespace = original.__globals__
        argparse = namespace["argparse"]
        base: Any = argparse.ArgumentParser

        class Parser(base):
            def parse_known_args(self, words=None, namespace=None):
                options.add_to_parser(self, command)
                result = super().parse_known_args(words, namespace)
                absent = object()
                probe = argparse.Namespace(**{a.dest: absent for a in self._actions})
                super().parse_known_args(words, probe)
                for name, value in vars(probe).items():
                    if value is not absent:
                        TYPED.setdefault(name, value)  # keywords of run() go before the words of sys.argv
                return result

        namespace["argparse"] = View(argparse, ArgumentParser=Parser)
        try:
            parsed = original(*args, **kwargs)
            PARSED.clear()
            PARSED.update(vars(parsed))
            return parsed
        finally:
            namespace["argparse"] = argparse

    return wrapper


def with_options(original: Callable, command: str, execute: Callable, summary: str) -> Callable:
    """Put a command's sparse options into its signature: python-fire reads flags, defaults and help from it.

    Args:
        execute: called with upstream's arguments by name, the plugin's own, and the names of those that were typed.
        summary: first line of the help.
    """
    upstream = inspect.signature(original)
    ours = options.of_command(command)
    names = list(options.typed_names(command))
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    others = inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)  # a misspelt flag reaches us, not fire
    needed = [name for name, parameter in upstream.parameters.items() if parameter.default is parameter.empty]
    # fire asks for them before it looks for --help
    theirs = [p.replace(default=None) if p.name in needed else p for p in upstream.parameters.values()]
    signature = upstream.replace(parameters=[*theirs, *keywords, others])
    text = f"{summary}\n\nArgs:\n" + "\n".join(f"    sparse_{o.name}: {o.help}" for o in ours)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calling = caller()
        by_fire = calling.get("__name__") == "fire.core"
        if by_fire:
            if kwargs.get("help") is True:
                return show_help(signature, text, f"yolov5 {command}")
            kwargs = {spelt_out(k, [*upstream.parameters, *names]): v for k, v in kwargs.items()}
        own = {k: v for k, v in kwargs.items() if k not in upstream.parameters and v is not None}
        call = upstream.bind(*args, **{k: v for k, v in kwargs.items() if k in upstream.parameters})
        # fire and argparse hand over every default; callers in Python only what they mean
        own_script = calling is inspect.unwrap(original).__globals__
        typed = flags_typed() if by_fire else set(TYPED) if own_script else set(call.arguments)
        call.apply_defaults()

        def run_it() -> Any:
            options.refuse_unknown(own, call.arguments, command)
            for name in needed if by_fire else ():
                if call.arguments[name] is None:
                    raise OptionError(f"yolov5 {command}: needs --{name}.")
            return execute(call.arguments, own, typed)

        if not by_fire:
            return run_it()
        result = exit_plainly(run_it)
        return None if isinstance(result, Said) else result

    vars(wrapper).update(__sparse_signature__=signature, __sparse_help__=text)
    return wrapper


def caller() -> dict[str, Any]:
    """Return the namespace that a doorway was called from."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("yolov5_sparse_plugin."):
        frame = frame.f_back
    return frame.f_globals


def show_help(signature: inspect.Signature, text: str, name: str) -> None:
    """Print fire's help of a function that takes any flag, for which fire takes `--help` for one of them."""
    from fire import helptext, trace

    def shown() -> None: ...

    known = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
    vars(shown).update(__signature__=signature.replace(parameters=known))
    shown.__doc__ = text
    print(helptext.HelpText(shown, trace=trace.FireTrace(shown, name=name)))


def spelt_out(flag: str, names: list[str]) -> str:
    """Return the name that a one-letter flag is short for, as fire does where a function does not take any flag."""
    meant = [name for name in names if name.startswith(flag)] if len(flag) == 1 else []
    return meant[0] if len(meant) == 1 else flag


def flags_typed() -> set[str]:
    """Return the names of the flags on this process's command line; fire takes one dash for two."""
    flags = (word.lstrip("-") for word in sys.argv[1:] if word.startswith("-"))
    return {flag.split("=")[0].replace("-", "_") for flag in flags}
