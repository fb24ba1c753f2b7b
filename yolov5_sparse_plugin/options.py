"""What the user asked of the plugin, from the command line, the environment and yolov5-sparse.yaml, in that order.

One table, `option_table.OPTIONS`, feeds the parser of `yolov5 train --help`, the environment variables, the config file
and the checks, so that an option exists everywhere or nowhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from yolov5_sparse_plugin import yaml_text
from yolov5_sparse_plugin.errors import OptionError, nearest
from yolov5_sparse_plugin.option_table import BY_NAME, OPTIONS, Option
from yolov5_sparse_plugin.option_values import REPORTS, TARGETS, ZOO_SOURCES, switch

CONFIG_NAME = "yolov5-sparse.yaml"
ENV_PREFIX = "YOLOV5_SPARSE_"
# variables that are not options of a run: they steer the plugin itself (or its tests)
ENV_SWITCHES = ("AUTOLOAD", "CONFIG", "DISABLE", "TRACE", "TEST_DATA")
# options by which code runs that is no part of this plugin: a file that came with a model cannot set them
CODE = ("hooks", "trust_pickle")


@dataclass(frozen=True)
class SparseOptions:
    """The validated options of one run; `origin` says where each one was found, for messages.

    Attributes:
        recipe: path, shipped name or raw text of the recipe; None: nothing sparse was asked for.
        recipe_args: overrides of the recipe's root variables; at export, of the one-shot recipe's.
        engine: what executes the recipe, `sparseml` or `native`; None: SparseML where it is installed.
        teacher: checkpoint to distill from; None: no distillation.
        gradient_accum_steps: batches in one step of the optimizer; None: upstream decides.
        qat_batch_size: images whose activations quantization-aware training keeps at a time; None: a whole batch.
        data_path: folder that takes the place of the data set's `path`.
        log_dir: folder for what loggers write.
        hooks: Python files with hooks of the user's.
        trust_pickle: whether a checkpoint may call whatever it names.
        target: engine that an export is shaped for.
        one_shot: recipe to apply at export.
        export_samples: number of input and output pairs to write at export.
        uint8_input: whether the exported model takes uint8 images.
        baseline: what an export is compared with; None: the dense model that it came from.
        report: how much of an export is measured, `full`, `fast` or `none`.
        zoo, zoo_mirror, zoo_sources: where stubs are looked for. zoo_timeout: seconds that a server may stay silent.
        origin: option name -> `--sparse-recipe`, `YOLOV5_SPARSE_RECIPE`, `yolov5-sparse.yaml` or `checkpoint`.
    """

    recipe: str | None = None
    recipe_args: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    teacher: str | None = None
    gradient_accum_steps: int | None = None
    qat_batch_size: int | None = None
    data_path: str | None = None
    log_dir: str | None = None
    hooks: list[str] = field(default_factory=list)
    trust_pickle: bool = False
    target: str = TARGETS[0]
    one_shot: str | None = None
    export_samples: int = 0
    uint8_input: bool = False
    baseline: str | None = None
    report: str = REPORTS[0]
    zoo: list[str] = field(default_factory=list)
    zoo_mirror: str | None = None
    zoo_sources: list[str] = field(default_factory=lambda: list(ZOO_SOURCES))
    zoo_timeout: float = 20.0
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def sparse(self) -> str | None:
        """What makes a training run sparse, as the user wrote it: a recipe, else a teacher; None without both."""
        return next((self.asked(name) for name in ("recipe", "teacher") if getattr(self, name) is not None), None)

    def asked(self, name: str) -> str:
        """Return how the user wrote option `name`, for the first part of an error message."""
        where = self.origin.get(name, BY_NAME[name].flag)
        return f"{where} {getattr(self, name)}" if where.startswith("--") else f"{where}: {getattr(self, name)}"


def add_to_parser(parser, command: str) -> None:
    """Add a command's sparse options to an argparse parser, without defaults: what was not typed stays absent."""
    import argparse

    group = parser.add_argument_group("sparsification (yolov5-sparse-plugin)")
    for option in of_command(command):
        flags = [option.flag] + ["--" + alias.replace("_", "-") for alias in option.aliases]
        bare = {"nargs": "?", "const": True} if option.read is switch else {}
        group.add_argument(
            *flags,
            dest="sparse_" + option.name,
            metavar=option.metavar,
            default=argparse.SUPPRESS,
            help=option.help,
            **bare,
        )


def of_command(command: str) -> list[Option]:
    """Return the options that one of YOLOv5's commands takes."""
    return [option for option in OPTIONS if command in option.commands]


def typed_names(command: str) -> dict[str, Option]:
    """Map every spelling that may arrive as a keyword (`sparse_recipe`, `recipe`) to its option."""
    names = {"sparse_" + option.name: option for option in of_command(command)}
    names.update({alias: option for option in of_command(command) for alias in option.aliases})
    return names


def from_typed(typed: Mapping[str, Any], command: str) -> dict[str, tuple[Any, str]]:
    """Pick the plugin's options out of keywords or flags; refuse a `sparse_…` that does not exist."""
    known, found = typed_names(command), {}
    for key, value in typed.items():
        flag = "--" + key.replace("_", "-")
        if key in known:
            found[known[key].name] = (value, flag)
        elif key.startswith("sparse_") or key == "sparse":
            owners = [o.commands[0] for o in OPTIONS if o.flag == flag]
            if owners:
                raise OptionError(f"{flag}: an option of 'yolov5 {owners[0]}', not of 'yolov5 {command}'.")
            raise OptionError(f"{flag}: no such option. {nearest(flag, {o.flag for o in of_command(command)})}")
    return found


def refuse_unknown(own: Mapping[str, Any], arguments: Mapping[str, Any], command: str) -> None:
    """Raise an OptionError for a keyword that is neither upstream's (`arguments`) nor the plugin's."""
    from_typed(own, command)
    known = typed_names(command)
    for name in own:
        if name not in known:
            flag = ("--" if len(name) > 1 else "-") + name.replace("_", "-")
            raise OptionError(f"{flag}: no such option. {nearest(flag, ['--' + n for n in [*arguments, *known]])}")


def from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found = {}
    for key, value in environ.items():
        if not key.startswith(ENV_PREFIX) or key[len(ENV_PREFIX) :] in ENV_SWITCHES:
            continue
        name = key[len(ENV_PREFIX) :].lower()
        if name not in BY_NAME:
            known = [ENV_PREFIX + o.name.upper() for o in OPTIONS] + [ENV_PREFIX + s for s in ENV_SWITCHES]
            raise OptionError(f"environment variable {key}: no such option. {nearest(key, known)}")
        if value:
            found[name] = (value, key)
    return found


def config_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the config file to read: YOLOV5_SPARSE_CONFIG, else yolov5-sparse.yaml in `cwd`, else None."""
    named = environ.get(ENV_PREFIX + "CONFIG")
    if named:
        if not Path(named).is_file():
            raise OptionError(f"{ENV_PREFIX}CONFIG={named}: there is no such file.")
        return Path(named)
    path = cwd / CONFIG_NAME
    return path if path.is_file() else None


def read_config(environ: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """Read the config file as a dict of option name -> value; `disable` may list hooks to block."""
    path = config_file(environ, cwd)
    if path is None:
        return {}
    try:
        content = yaml_text.load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: not valid YAML ({error}).") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path}: expected 'option: value' lines, found {type(content).__name__}.")
    content = {str(k).replace("-", "_"): v for k, v in content.items()}
    content = {k[len("sparse_") :] if k.startswith("sparse_") else k: v for k, v in content.items()}
    for key in content:
        if key not in BY_NAME and key != "disable":
            raise OptionError(f"{path}: no option {key!r}. {nearest(key, [*BY_NAME, 'disable'])}")
    code = next((name for name in CODE if content.get(name)), None)
    if code and not environ.get(ENV_PREFIX + "CONFIG"):
        raise OptionError(
            f"{path}: {code}: whatever lies in the current folder may have come with somebody's model, and cannot let "
            f"code run. Type {as_typed(code, content[code])}, or say that the file is yours: {ENV_PREFIX}CONFIG={path}."
        )
    return content


def as_typed(name: str, value: Any) -> str:
    """Return the words by which an option is given on the command line."""
    words = value if isinstance(value, list) else [value]
    return BY_NAME[name].flag + ("" if value is True else f" {','.join(map(str, words))}")


def flag_typed() -> str | None:
    """Return the first of the plugin's flags on this process's command line."""
    flags = {option.flag for option in OPTIONS} | {"--" + a.replace("_", "-") for o in OPTIONS for a in o.aliases}
    return next((word for word in sys.argv[1:] if word.split("=")[0].replace("_", "-") in flags), None)


def wanted() -> bool:
    """Return whether the command line, the environment or a config file asks anything of the plugin."""
    return bool(flag_typed() or from_environment(os.environ) or read_config(os.environ, Path.cwd()))


def resolve(
    typed: Mapping[str, Any],
    recorded: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: str = "train",
) -> SparseOptions:
    """Merge the sources, first one wins: typed, recorded, environment, config file.

    Args:
        typed: flags of the command line or keywords of `run()`, foreign ones included.
        recorded: options of the run that is being resumed (`opt.yaml`), None for a new run.
        environ: defaults to `os.environ`.
        cwd: where the config file is looked for; defaults to the current directory.
        command: the command of YOLOv5 that it is for; other commands' options are checked, and otherwise left alone.

    Raises:
        OptionError: unknown name or wrong type, naming where it stands.
    """
    environ = os.environ if environ is None else environ
    config = read_config(environ, Path.cwd() if cwd is None else cwd)
    file = environ.get(ENV_PREFIX + "CONFIG") or CONFIG_NAME
    given, surroundings = from_typed(typed, command), from_environment(environ)
    found = {k: (v, "opt.yaml") for k, v in (recorded or {}).items() if k in BY_NAME and v}
    for name in CODE:
        value, _ = found.pop(name, (None, ""))
        if value and not (name in given or name in surroundings or config.get(name)):
            raise OptionError(
                f"opt.yaml of the run to be resumed: sparse_{name}: {value}: a file that came with a model cannot let "
                f"code run. If it is yours, add {as_typed(name, value)}; else take the line out of opt.yaml."
            )
    sources = (
        given,
        found,
        surroundings,
        {k: (v, file) for k, v in config.items() if k in BY_NAME and v is not None},
    )
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in sources:
        for name, (value, where) in source.items():
            if name not in values:
                shown = where if where.startswith(("--", ENV_PREFIX)) else f"{where}: {name}"
                values[name] = BY_NAME[name].read(value, shown)
                origin[name] = where
    if command == "train" and "recipe_args" in values and "recipe" not in values:
        raise OptionError(
            f"{origin['recipe_args']}: recipe arguments were given but no recipe. Add --sparse-recipe RECIPE."
        )
    if command == "export" and "recipe_args" in values:
        if not origin["recipe_args"].startswith("--"):
            if "recipe" in values:  # they are that one's, which trains
                values["recipe_args"] = {}
        elif "one_shot" not in values:
            raise OptionError(
                f"{origin['recipe_args']}: recipe arguments were given but no recipe. Add --sparse-one-shot RECIPE; "
                "what was trained with a recipe is exported as it is."
            )
    return SparseOptions(origin=origin, **values)


def disabled_hooks(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> list[str]:
    """Return the names of blocked hooks: YOLOV5_SPARSE_DISABLE (comma separated), else the config's `disable`."""
    environ = os.environ if environ is None else environ
    listed: Any = environ.get(ENV_PREFIX + "DISABLE")
    if listed is None:
        listed = read_config(environ, Path.cwd() if cwd is None else cwd).get("disable") or []
    words = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        file = environ.get(ENV_PREFIX + "CONFIG") or CONFIG_NAME
        raise OptionError(f"{file}: disable: expected names of hooks, got {listed!r}.")
    return [word.strip() for word in words if word.strip()]
