"""Wheel and editable install carry everything, start up by themselves, and uninstall without a trace."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, clean_environment
from packaging.requirements import Requirement


def pip(python, *words, status=0):
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        text=True,
        capture_output=True,
        env=clean_environment(),
        timeout=300,
        cwd="/",
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources: building leaves folders behind."""
    import shutil

    folder = tmp_path_factory.mktemp("source") / "project"
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "runs", "demo", "__pycache__", ".tox")
    shutil.copytree(REPOSITORY, folder, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


@pytest.fixture
def venv(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    return tmp_path / "venv" / "bin" / "python"


FINDERS = "import sys; print([type(f).__name__ for f in sys.meta_path].count('AttachingFinder'))"


def run(python, code):
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, env=clean_environment(), check=True, cwd="/"
    )


def test_the_wheel_carries_hooks_recipes_and_the_pth(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "yolov5_sparse_plugin.pth" in names
    for size in "nsmlx":
        assert f"yolov5_sparse_plugin/legacy_files/models_v5.0/yolov5{size}.yaml" in names
    assert "yolov5_sparse_plugin/legacy_files/data/hyps/hyp.finetune.yaml" in names
    for name in ("hooks/sparse_training.py", "recipes/pruned.yaml", "recipes/README.md", "startup.py", "py.typed"):
        assert f"yolov5_sparse_plugin/{name}" in names
    modules = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("yolov5_sparse_plugin/**/*.py")}
    assert modules <= set(names), "a folder is missing in setup.cfg"
    assert {n.split("/")[0] for n in names if "dist-info" not in n} == {
        "yolov5_sparse_plugin",
        "yolov5_sparse_plugin.pth",
    }
    assert len(zipfile.ZipFile(wheel).read("yolov5_sparse_plugin.pth").decode().splitlines()) == 1


def test_a_wheel_starts_by_itself_and_uninstalls_without_a_trace(wheel, venv):
    assert run(venv, FINDERS).stdout == "0\n"
    pip(venv, "install", "--no-deps", wheel)
    assert run(venv, FINDERS).stdout == "1\n"
    pip(venv, "uninstall", "--yes", "yolov5-sparse-plugin")
    done = run(venv, FINDERS)
    assert done.stdout == "0\n" and done.stderr == ""
    assert not list(venv.parent.parent.rglob("*sparse_plugin*"))


def test_an_editable_install_starts_by_itself_and_uninstalls_without_a_trace(source, venv):
    pip(venv, "install", "--no-deps", "--editable", source)
    assert run(venv, FINDERS).stdout == "1\n"
    code = "import yolov5_sparse_plugin.hooks as h, yolov5_sparse_plugin.recipes as r; print(h.__file__, r.__file__)"
    assert str(Path(source) / "hooks") in run(venv, code).stdout
    pip(venv, "uninstall", "--yes", "yolov5-sparse-plugin")
    done = run(venv, FINDERS)
    assert done.stdout == "0\n" and done.stderr == ""


@pytest.mark.parametrize("python, engine", [("3.9", True), ("3.11", True), ("3.12", False), ("3.13", False)])
def test_what_has_no_release_for_a_python_is_not_asked_for_there(wheel, python, engine):
    read = zipfile.ZipFile(wheel).read
    name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    about = email.message_from_bytes(read(name))
    assert about["Requires-Python"] == ">=3.9"
    environment = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
    needed = set()
    for extra in ("", "yolov5", "deepsparse", "test"):
        for line in map(Requirement, about.get_all("Requires-Dist")):
            if line.marker is None or line.marker.evaluate({**environment, "extra": extra}):
                needed.add(line.name.lower())
    only_there = {"sparseml", "sparsezoo", "deepsparse", "pillow"}
    assert needed & only_there == (only_there if engine else set())
    assert {"yolov5", "setuptools", "onnx", "torch", "openvino"} <= needed


def test_pip_check_is_clean():
    assert "No broken requirements found" in pip(sys.executable, "check")


def test_the_top_level_is_what_the_layout_says():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: the layout is checked where the history is")
    top = {name.split("/")[0] for name in tracked}
    assert top <= {
        "setup.cfg",
        "setup.py",
        "pyproject.toml",
        "yolov5_sparse_plugin",
        "hooks",
        "recipes",
        "tests",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "tox.ini",
        ".gitignore",
        ".ci",
        "benchmarks",
        "docs",
    }
