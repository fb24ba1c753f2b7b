"""Every seam has a purpose and is found in every YOLOv5 that is supported; one that lacks a seam is refused by name."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import pytest
import yolov5
from checkouts import OFFLINE, Checkout, upstream
from conftest import REPOSITORY, TRUST, call, train_words, yolov5_train

from yolov5_sparse_plugin.errors import HostError
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.hosts.seams import SEAMS, SUPPORTED

REQUIRED = [name for name, seam in SEAMS.items() if seam.required]

# which spelling of each seam a YOLOv5 has, and which doorways; the argument is where its modules are, and their prefix
LOOK = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
from yolov5_sparse_plugin.attach.doorways import DOORWAYS
from yolov5_sparse_plugin.hosts.patchset import present
from yolov5_sparse_plugin.hosts.seams import SEAMS
sys.path.insert(0, sys.argv[3])
from checkouts import upstream
found = {}
for name, seam in SEAMS.items():
    function = upstream(sys.argv[2] + seam.reader)
    found[name] = next((target for target in seam.targets if present(function, target)), None)
attached = [f"{m}.{d.name}" for m, doors in DOORWAYS.items() for d in doors if m != "helpers" and d.required]
missing = [n for n in attached if not hasattr(upstream(sys.argv[2] + n, whole=False), "__yolov5_sparse_original__")]
print("FOUND" + json.dumps([found, missing]))
"""


def look(folder, prefix):
    tests = Path(__file__).parent
    output = call([sys.executable, "-c", LOOK, folder, prefix, tests], folder, **OFFLINE).output
    return json.loads(next(line for line in output.splitlines() if line.startswith("FOUND"))[5:])


def check(found, missing):
    assert not missing
    for name in REQUIRED:
        assert found[name], f"{name} ({SEAMS[name].reason}) is not read by {SEAMS[name].reader}()"
    # nothing that a run can do without is missing either, but for what master does otherwise
    assert {name for name, target in found.items() if target is None} <= {"trace"}


def test_every_seam_says_what_it_is_for_and_is_used_by_somebody():
    texts = [
        file.read_text() for folder in ("hooks", "yolov5_sparse_plugin") for file in (REPOSITORY / folder).rglob("*.py")
    ]
    used = "\n".join(text for text in texts if "SEAMS = {" not in text)
    for name, seam in SEAMS.items():
        assert len(seam.reason.split()) >= 4, name
        assert re.search(rf'"{name}": (?!Doorway)', used), f"no hook replaces {name}"
    assert len({seam.reason for seam in SEAMS.values()}) == len(SEAMS)


def test_the_pypi_package_has_every_seam_and_doorway(tmp_path):
    check(*look(tmp_path, "yolov5."))


def test_a_checkout_has_every_seam_and_doorway(checkout):
    check(*look(checkout.root, ""))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_function_without_a_seam_is_refused_by_its_name_and_nothing_is_touched(name):
    seam = SEAMS[name]
    function = upstream("yolov5." + seam.reader)
    namespace = {**function.__globals__, "renamed": None}
    roots = {target.split(".")[0] for target in seam.targets}

    def without(code):
        constants = tuple(without(c) if inspect.iscode(c) else c for c in code.co_consts)
        return code.replace(co_names=tuple("renamed" if n in roots else n for n in code.co_names), co_consts=constants)

    moved = FunctionType(without(function.__code__), namespace, function.__name__)
    before = dict(namespace)
    alongside = {n: lambda original: None for n, other in SEAMS.items() if other.reader == seam.reader}
    with pytest.raises(HostError) as caught:
        PatchSet(moved, alongside, "8.0")
    assert str(caught.value) == (
        f"This YOLOv5 (8.0) has no {seam.targets[0]!r} in {function.__name__}(); yolov5-sparse-plugin knows "
        f"{SUPPORTED}. Nothing was changed. Install one of these, or run without sparse options."
    )
    assert all(namespace[key] is before[key] for key in before) and set(namespace) == set(before)


def moved_on(checkout, tmp_path, *edits) -> Checkout:
    """Return a copy of a checkout whose train.py has changed."""
    root = shutil.copytree(checkout.root, tmp_path / "moved", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    text = (root / "train.py").read_text()
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    (root / "train.py").write_text(text)
    return replace(checkout, root=root)


MOVED = {
    "has no 'smart_optimizer' in train()": [("smart_optimizer", "clever_optimizer")],
    "has no 'parse_opt' in train.py": [("parse_opt", "parse_options")],
    "has no 'if __name__ == \"__main__\":' in train.py": [('if __name__ == "__main__":', "if True:")],
}


@pytest.mark.parametrize("message", MOVED)
def test_a_checkout_that_has_moved_on_is_refused_before_anything_is_written(
    checkout, shapes, prune_two, tmp_path, message
):
    edits = MOVED[message]
    if "__name__" in message and checkout.name == "shaped":
        edits = [("if __name__ == '__main__':", "if True:")]
    if "smart_optimizer" in message:
        helpers = checkout.root / "utils" / "torch_utils.py"
        edits = [
            *edits,
            (
                "import yaml\n",
                "import yaml\nimport utils.torch_utils as _t\n_t.clever_optimizer = _t.smart_optimizer\n",
            ),
        ]
        assert "def smart_optimizer" in helpers.read_text()
    moved = moved_on(checkout, tmp_path, *edits)
    work = tmp_path / "work"
    work.mkdir()
    output = moved.run(work, "train.py", *train_words(shapes, "--sparse-recipe", prune_two)[1:], status=2).output
    sentence = next(line for line in output.splitlines() if line.startswith("yolov5-sparse: error: "))
    assert f"This YOLOv5 (the checkout in {moved.root}) {message}" in sentence
    assert SUPPORTED in sentence and "Nothing was changed" in sentence and "Traceback" not in output
    assert not list(work.iterdir())


def test_without_a_sparse_option_a_checkout_that_has_moved_on_is_upstreams(checkout, tmp_path):
    moved = moved_on(checkout, tmp_path, ("parse_opt", "parse_options"))
    output = moved.run(tmp_path, "train.py", "--help").output
    assert "yolov5-sparse: warning: This YOLOv5" in output and "usage: train.py" in output
    assert "--sparse-recipe" not in output


def test_a_package_without_a_doorway_is_refused_by_name(tmp_path, shapes, prune_two):
    host = tmp_path / "host" / "yolov5"
    shutil.copytree(Path(yolov5.__file__).parent, host, ignore=shutil.ignore_patterns("__pycache__"))
    text = (host / "train.py").read_text()
    (host / "train.py").write_text(text.replace("parse_opt", "parse_options"))
    env = {"PYTHONPATH": str(host.parent), **TRUST}
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", prune_two, status=2, env=env)
    assert "yolov5-sparse: error: This YOLOv5 (7.0.14) has no 'parse_opt' in train.py" in run.output
    assert "Traceback" not in run.output and not (tmp_path / "runs").exists()
