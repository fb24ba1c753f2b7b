"""Modules of this package that run as processes of their own."""

from __future__ import annotations

import sys

START = "import sys; sys.path[:] = [place for place in sys.path if place]; from {} import main; main()"


def python(module: str, *words: object) -> list[str]:
    """Return the command that calls `main()` of `module` with `words` for its arguments.

    `python -m` would import from the current folder first, whoever filled it.
    """
    return [sys.executable, "-c", START.format(module), *map(str, words)]
