"""The house stands: imports run one way, also lazy ones and those for typing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY


def test_imports_run_downwards_and_sparseml_has_one_room():
    pytest.importorskip("importlinter", reason="pip install import-linter")
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
