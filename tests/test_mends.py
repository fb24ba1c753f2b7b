"""YOLOv5's own commands where numpy 2.4 and Pillow 10 have taken away what they call.

On an older Pillow it is taken away here. numpy stays what it is: other libraries of its age need what it has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy
import pytest
import torch
from conftest import TRUST, call, command, results, train_words

from yolov5_sparse_plugin.hosts import mends
from yolov5_sparse_plugin.hosts.current import Host

# executed at the start of every Python process that has its folder on PYTHONPATH
TAKE_AWAY = """\
from PIL import ImageFont

if hasattr(ImageFont.FreeTypeFont, "getsize"):
    del ImageFont.FreeTypeFont.getsize
"""
MISSING = [mend for mend in mends.MENDS if mend.name != "np" or not hasattr(numpy, "trapz")]
SIZES = ("--imgsz", 64, "--device", "cpu")


@pytest.fixture(scope="session")
def taken_away(tmp_path_factory) -> dict[str, str]:
    """The environment of a process whose Pillow is of today, in this respect."""
    folder = tmp_path_factory.mktemp("newest")
    (folder / "sitecustomize.py").write_text(TAKE_AWAY)
    return {**TRUST, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


@pytest.fixture(scope="session")
def trained(once, shapes, taken_away):
    """A plain run of one epoch that draws its plots."""
    words = [word for word in train_words(shapes, "--epochs", 1) if word != "--noplots"]
    return once("mended", lambda cwd: call([command("yolov5"), *words], cwd, **taken_away))


def test_a_plain_run_validates_and_draws_its_plots(trained):
    assert "AttributeError" not in trained.output and "Exception in thread" not in trained.output
    assert results(trained)["epoch"] == [0] and "metrics/mAP_0.5" in results(trained)
    for name in ("train_batch0.jpg", "val_batch0_labels.jpg", "results.png", "PR_curve.png", "labels.jpg"):
        assert (trained.folder / name).stat().st_size, name


def test_val_measures(trained, shapes, taken_away, tmp_path):
    words = [command("yolov5"), "val", "--data", shapes, "--weights", trained.weights / "last.pt", *SIZES]
    words += ["--workers", 0]
    assert any(line.split()[:1] == ["all"] for line in call(words, tmp_path, **taken_away).output.splitlines())
    untouched = call(words, tmp_path, status=None, YOLOV5_SPARSE_AUTOLOAD="0", **taken_away)
    assert ("has no attribute 'trapz'" in untouched.output) == (untouched.status != 0) == (not hasattr(numpy, "trapz"))


def test_detect_draws_labels_in_any_script(trained, shapes, taken_away, tmp_path):
    import cv2

    checkpoint = torch.load(trained.weights / "last.pt", map_location="cpu", weights_only=False)
    checkpoint["model"].names = {0: "диск", 1: "箱", 2: "cross"}
    torch.save(checkpoint, tmp_path / "names.pt")
    picture = sorted((shapes.parent / "images" / "val").iterdir())[0]
    words = ["detect", "--weights", tmp_path / "names.pt", "--source", picture, "--conf-thres", 0.0001, *SIZES]
    words = [command("yolov5"), *words, "--project", tmp_path, "--name", "drawn", "--exist-ok"]
    untouched = call(words, tmp_path, status=1, YOLOV5_SPARSE_AUTOLOAD="0", **taken_away)
    assert "has no attribute 'getsize'" in untouched.output
    call(words, tmp_path, **taken_away)
    drawn = cv2.imread(str(tmp_path / "drawn" / picture.name))
    assert numpy.any(numpy.abs(drawn.astype(int) - cv2.imread(str(picture))) > 100)


def test_a_checkout_is_mended_through_the_runner_and_without_it(checkout, trained, shapes, taken_away, tmp_path):
    words = ["--data", shapes, "--weights", trained.weights / "last.pt", *SIZES, "--workers", 0]
    for plugin in (True, False):  # `python val.py`: its modules are noticed, it is not
        checkout.run(tmp_path, "val.py", *words, plugin=plugin, **taken_away)


def test_status_lists_what_is_mended(taken_away, tmp_path):
    said = call([command("yolov5-sparse"), "status"], tmp_path, **taken_away).output
    for mend in MISSING:
        assert f"yolov5.{mend.module}.{mend.name}: {mend.reason}" in said


def test_readme_lists_every_mend():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for mend in mends.MENDS:
        gone = mend.reason.split(",")[0]
        assert f"| `{gone}`" in readme, gone


# ------------------------------------------------------------------------------------------------- one by one


@pytest.fixture
def host(monkeypatch) -> ModuleType:
    """A host whose only module reads numpy."""
    module = ModuleType("of_a_test.utils.metrics")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(mends, "_done", [])
    return module


def test_only_what_is_missing_is_added_once_and_taken_off_again(host):
    host.np = lacking = SimpleNamespace(trapezoid=sum, pi=3)
    for _ in range(2):
        mends.mend(Host("of_a_test.", Path(), "?"))
    assert host.np.trapz is sum and host.np.pi == 3 and not hasattr(lacking, "trapz")
    assert len(mends.done()) == 1
    mends.undo()
    assert host.np is lacking and mends.done() == []


def test_where_nothing_is_missing_nothing_is_touched(host):
    host.np = whole = SimpleNamespace(trapezoid=sum, trapz=max)
    mends.mend(Host("of_a_test.", Path(), "?"))
    assert host.np is whole and mends.done() == []


def test_what_somebody_else_has_put_there_since_stays(host):
    host.np = SimpleNamespace(trapezoid=sum)
    mends.mend(Host("of_a_test.", Path(), "?"))
    host.np = theirs = SimpleNamespace()
    mends.undo()
    assert host.np is theirs


@pytest.mark.parametrize(
    "text, size",
    [("disc 0.87", (77, 16)), ("диск", (42, 18)), ("jgy", (27, 20)), ("'", (5, 16)), (" ", (5, 16)), ("", (0, 0))],
)
def test_a_label_is_as_large_as_pillow_9_said(text, size):
    import matplotlib
    from PIL import ImageFont

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 17)
    assert mends.size_of(font, text) == pytest.approx(size, abs=1)
    if hasattr(font, "getsize"):
        with pytest.warns(DeprecationWarning):
            assert mends.size_of(font, text) == font.getsize(text)
