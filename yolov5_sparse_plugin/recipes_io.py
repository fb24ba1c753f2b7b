"""Find a recipe by path, shipped name or raw text, and read it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from yolov5_sparse_plugin.errors import RecipeError, nearest

SHIPPED = Path(__file__).parent / "recipes"
SUFFIXES = (".yaml", ".yml", ".md")


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes (next to the package in a checkout, inside it once installed)."""
    import importlib.util

    spec = importlib.util.find_spec("yolov5_sparse_plugin.recipes")
    return Path(spec.origin).parent if spec and spec.origin else SHIPPED


def shipped() -> dict[str, Path]:
    """Return the shipped recipes, name -> file."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


@dataclass(frozen=True)
class RecipeText:
    """The YAML text of a recipe, and where it came from."""

    text: str
    source: str


BOM = "\ufeff"  # some editors write it before the first letter
# blank lines and comments (a licence), then the line that opens the front matter
OPENING = re.compile(r"\A(?:\s|<!--(?:(?!-->).)*-->)*^(?:---|\+\+\+)[ \t]*$", re.S | re.M)
CLOSING = re.compile(r"^(?:---|\+\+\+)[ \t]*$", re.M)


def is_card(text: str) -> bool:
    """Return whether a recipe is Markdown with its YAML as front matter, not YAML alone."""
    return OPENING.match(text.lstrip(BOM)) is not None


def front_matter(text: str, source: str) -> str:
    """Return the YAML of a Markdown recipe: what stands between its first two `---` lines.

    Raises:
        RecipeError: there are no two.
    """
    text = text.lstrip(BOM)
    opening = OPENING.match(text)
    closing = opening and CLOSING.search(text, opening.end())
    if not opening or not closing:
        found = "the second is missing" if opening else "found none"
        raise RecipeError(
            f"{source}: a Markdown recipe needs its YAML as front matter, between two lines '---'; {found}."
        )
    return "\n" * text.count("\n", 0, opening.end()) + text[opening.end() : closing.start()]  # lines keep their numbers


def read(address: str, asked: str | None = None) -> RecipeText:
    """Read the recipe at `address`.

    Args:
        address: a file (.yaml, .yml, .md), the name of a shipped recipe, or the YAML itself (with line breaks).
        asked: how the user named it, for messages.

    Raises:
        RecipeError: nothing is there, or it is not text.
    """
    if "\n" in address:
        return RecipeText(front_matter(address, "recipe text") if is_card(address) else address, "recipe text")
    asked = asked or f"--sparse-recipe {address}"
    path = Path(address).expanduser()
    if not path.is_file() and address in shipped():
        path = shipped()[address]
    if path.is_dir():
        raise RecipeError(f"{asked}: this is a directory. Name the recipe file in it.")
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES] if path.parent.is_dir() else []
        raise RecipeError(
            f"{asked}: no such file, and no shipped recipe has that name. " + nearest(path.name, [*shipped(), *near])
        )
    if path.suffix.lower() not in SUFFIXES:
        raise RecipeError(f"{asked}: a recipe is a .yaml or .md file, this is {path.suffix or 'neither'!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{asked}: not a text file ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise RecipeError(f"{asked}: cannot be read ({error.strerror}).") from error
    if path.suffix.lower() == ".md":
        text = front_matter(text, address)
    return RecipeText(text, str(path))
