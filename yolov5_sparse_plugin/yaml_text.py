"""YAML that somebody else wrote: data sets, config files, model cards."""

from __future__ import annotations

from typing import Any

import yaml


def load(text: str) -> Any:
    """Return what `text` says.

    Raises:
        yaml.YAMLError: whatever is wrong with it; PyYAML alone has other errors for dates that there are not, numbers
            that are too long, and brackets that are too deep.
    """
    try:
        return yaml.safe_load(text)
    except (ValueError, OverflowError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error
