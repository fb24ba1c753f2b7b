"""mAP of an exported file is what `yolov5 val` measures, of a data set that is opened without running anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export import accuracy, images, labels

LABELS = {
    "boxes": "0 0.5 0.5 0.2 0.2\n2 0.1 0.1 0.05 0.2\n",
    "one box twice": "1 0.5 0.5 0.2 0.2\n0 0.25 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n",
    "polygons": "0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n1 0.5 0.5 0.9 0.5 0.7 0.9\n",
    "a polygon beside a box of two corners": "0 0.1 0.1 0.4 0.1 0.4 0.5\n1 0.5 0.5 0.9 0.8\n",
    "outside of the image": "0 0.5 0.5 0.2 1.2\n",
    "negative": "0 -0.5 0.5 0.2 0.2\n",
    "not a number": "0 nan 0.5 0.2 0.2\n",
    "six numbers": "0 0.5 0.5 0.2 0.2 0.9\n",
    "lines of different lengths": "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2\n",
    "words": "disc 0.5 0.5 0.2 0.2\n",
    "an empty line in between": "0 0.5 0.5 0.2 0.2\n\n1 0.5 0.5 0.2 0.2\n",
    "blanks in between": "0 0.5 0.5 0.2 0.2\n  \n1 0.5 0.5 0.2 0.2\n",
    "empty": "",
    "missing": None,
}


@pytest.mark.parametrize("content", LABELS.values(), ids=LABELS)
def test_labels_are_read_as_yolov5_reads_them(content, tmp_path):
    from yolov5.utils.dataloaders import verify_image_label

    picture, file = tmp_path / "a.png", tmp_path / "a.txt"
    cv2.imwrite(str(picture), np.zeros((40, 60, 3), np.uint8))
    if content is not None:
        file.write_text(content)
    theirs, ours = verify_image_label((str(picture), str(file), ""))[1], labels.read(file)
    assert (theirs is None) == (ours is None)
    if ours is not None:
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize("height, width", [(37, 90), (90, 37), (64, 64), (200, 333), (640, 481), (31, 30)])
def test_images_and_labels_are_placed_as_yolov5_val_does(height, width, tmp_path):
    """Its loader, then what `val.run` does with the labels."""
    from yolov5.utils.dataloaders import LoadImagesAndLabels
    from yolov5.utils.general import scale_boxes, xywh2xyxy

    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    random = np.random.default_rng(height)
    picture = tmp_path / "images" / "a.png"
    cv2.imwrite(str(picture), random.integers(0, 256, (height, width, 3)).astype(np.uint8))
    rows = np.concatenate([random.integers(0, 3, (5, 1)), random.uniform(0.05, 0.9, (5, 4))], 1)
    (tmp_path / "labels" / "a.txt").write_text("\n".join(" ".join(f"{v:.4f}" for v in row) for row in rows))
    theirs, targets, _, (shape, ratio_pad) = LoadImagesAndLabels(str(tmp_path / "images"), 64, 1, workers=0)[0]
    placed = images.place(images.read(picture), (64, 64))
    assert np.array_equal(placed.image[:, :, ::-1].transpose(2, 0, 1), theirs.numpy())
    boxes = xywh2xyxy(targets[:, 2:] * 64)
    scale_boxes((64, 64), boxes, shape, ratio_pad)
    (file,) = labels.files([picture])
    ours = accuracy.in_pixels(labels.read(file), placed)
    torch.testing.assert_close(ours, torch.cat([targets[:, 1:2], boxes], 1), rtol=0, atol=1e-3)


class Spelt:
    """Pickled as a call that leaves a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def strange(shapes, tmp_path):
    """A stranger's data set: what YOLOv5 finds in it leaves a file `trace` behind."""
    folder, trace = tmp_path / "set", tmp_path / "trace"
    shutil.copytree(Path(shapes).parent, folder, ignore=shutil.ignore_patterns("*.cache"))
    np.save(folder / "labels" / "val.npy", np.array({"a": Spelt(trace)}), allow_pickle=True)
    (folder / "labels" / "val.npy").rename(folder / "labels" / "val.cache")
    data = folder / "data.yaml"
    data.write_text(
        f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [disc, box, cross]\n"
        f"download: |\n  open({str(trace)!r}, 'w')\n"
    )
    return data


def measured(exported, data: Path) -> accuracy.Accuracy:
    """Measure the exported model of the drawn shapes."""
    evaluation = accuracy.Evaluation(exported[1] / "best.onnx", (64, 64), 3)
    return accuracy.measure([evaluation], images.files(data, "val"), (64, 64), 3, print)


def test_a_strangers_data_set_runs_nothing_and_is_not_written_to(strange, exported):
    before = {path: path.stat().st_mtime_ns for path in strange.parent.rglob("*")}
    found = measured(exported, strange)
    assert found.images == 16 and found.labels > 16
    shutil.rmtree(strange.parent / "images")
    with pytest.raises(ExportError, match=r"no images for 'val' .* 'download:' line says is not done here"):
        images.files(strange, "val")
    assert not (strange.parent.parent / "trace").exists()
    assert before.keys() - {path for path in before if "images" in path.parts} == set(strange.parent.rglob("*"))


def test_it_is_what_yolov5_val_measures(strange, exported, tmp_path):
    """The figures are small, after five epochs; test_export.py does it with real weights and photos."""
    from yolov5 import val

    (strange.parent / "labels" / "val.cache").unlink()
    found = measured(exported, strange)
    theirs = val.run(
        str(strange), str(exported[1] / "best.onnx"), imgsz=64, device="cpu", workers=0, project=tmp_path, plots=False
    )
    assert found.scores[0].map50 > 0
    assert (found.scores[0].map50, found.scores[0].map50_95) == pytest.approx(theirs[0][2:4], rel=1e-3)


def test_what_yolov5_leaves_out_is_left_out_and_what_cannot_be_measured_is_said(strange, exported):
    folder = strange.parent
    first, second, third = sorted((folder / "images" / "val").iterdir())[:3]
    first.write_bytes(first.read_bytes()[:-400])
    (folder / "labels" / "val" / f"{second.stem}.txt").write_text("0 0.5 0.5 0.2\n")
    (folder / "labels" / "val" / f"{third.stem}.txt").unlink()
    found = measured(exported, strange)
    assert found.images == 14 and found.left_out == [first, second]
    (folder / "labels" / "val" / f"{second.stem}.txt").write_text("7 0.5 0.5 0.2 0.2\n")
    with pytest.raises(accuracy.Unmeasured, match="the labels have a class 7, and the model knows 0 to 2"):
        measured(exported, strange)
    shutil.rmtree(folder / "labels")
    with pytest.raises(accuracy.Unmeasured, match=r"no labels for the images; the first .* at .*labels/val/0000\.txt"):
        measured(exported, strange)
    with pytest.raises(accuracy.Unmeasured, match=r"computes \[1, 252, 8\], not boxes of 80 classes"):
        accuracy.Evaluation(exported[1] / "best.onnx", (64, 64), 80)
