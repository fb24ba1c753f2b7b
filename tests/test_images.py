"""Images for calibration and verification are found and shaped as YOLOv5 does it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export import images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    for number in range(5):
        image = np.full((20, 40, 3), number * 10, np.uint8)
        cv2.imwrite(str(tmp_path / "set" / "images" / f"{number}.png"), image)
    return tmp_path


def test_found_through_a_yaml_a_folder_a_list_and_a_file(folder):
    (folder / "data.yaml").write_text("path: set\ntrain: images\nval: images\n")
    (folder / "list.txt").write_text("set/images/1.png\nset/images/3.png\n")
    assert len(images.files(folder / "data.yaml")) == len(images.files(folder / "set")) == 5
    assert [p.name for p in images.files(folder / "list.txt")] == ["1.png", "3.png"]
    assert len(images.files(folder / "set" / "images" / "2.png")) == 1


def test_nothing_found_is_said_with_the_places(folder):
    (folder / "data.yaml").write_text("path: set\ntrain: pictures\n")
    with pytest.raises(ExportError, match=r"no images for 'train' at .*pictures.*Check 'path:'"):
        images.files(folder / "data.yaml")
    with pytest.raises(ExportError, match="there is no such file"):
        images.files(folder / "none.yaml")
    (folder / "broken.jpg").write_text("no image")
    with pytest.raises(ExportError, match=r"broken\.jpg: cannot be read as an image"):
        list(images.load([folder / "broken.jpg"], (32, 32)))


def test_letterbox_is_upstreams():
    from yolov5.utils.augmentations import letterbox

    image = np.random.default_rng(0).integers(0, 256, (37, 90, 3)).astype(np.uint8)
    theirs = letterbox(image, (64, 64), auto=False)[0]
    assert np.array_equal(images.letterbox(image, (64, 64)), theirs)


def test_spread_takes_first_and_last_and_no_more_than_there_are():
    numbers = list(range(100))
    assert images.spread(numbers, 5) == [0, 25, 50, 74, 99]
    assert images.spread(numbers, 1) == [0] and images.spread([1, 2], 8) == [1, 2]


def test_loaded_and_generated_images_have_the_models_form(folder):
    loaded = list(images.load(images.files(folder / "set"), (32, 64)))
    made = list(images.generated(2, (32, 64)))
    for image in [*loaded, *made]:
        assert image.shape == (1, 3, 32, 64) and image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
        assert np.allclose(image * 255, np.round(image * 255), atol=1e-4), "8-bit images: uint8 input is the same"
