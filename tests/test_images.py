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
    (folder / "data.yaml").write_text("path: set\ntrain: ../images\nval: ../images\n")
    assert len(images.files(folder / "data.yaml")) == 5, "YOLOv5 takes it for images below path, too"
    assert [p.name for p in images.files(folder / "list.txt")] == ["1.png", "3.png"]
    assert len(images.files(folder / "set" / "images" / "2.png")) == 1


def test_nothing_found_is_said_with_the_places(folder):
    (folder / "data.yaml").write_text("path: set\ntrain: pictures\n")
    with pytest.raises(ExportError, match=r"no images for 'train' at .*pictures.*Check 'path:'"):
        images.files(folder / "data.yaml")
    with pytest.raises(ExportError, match="there is no such file"):
        images.files(folder / "none.yaml")


@pytest.fixture
def broken(folder):
    """Files of the same folder that are no images: one cut off, one empty, one of text."""
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))[1].tobytes()
    place = folder / "set" / "images"
    contents = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"not an image"}
    for name, content in contents.items():
        (place / name).write_bytes(content)
    (folder / "whole.jpg").write_bytes(whole + b"and what a camera wrote behind it")
    return [place / name for name in contents]


def test_what_cannot_be_read_is_left_out_and_said_in_one_line(folder, broken):
    said = []
    files = images.files(folder / "set")
    assert [p.name for p in images.readable(files, 100, said.append)] == [f"{number}.png" for number in range(5)]
    assert said == [f"3 of the images cannot be read and are left out, the first is {broken[0]}"]
    assert images.read(folder / "whole.jpg") is not None


def test_others_take_their_place(folder, broken):
    files = images.files(folder / "set")
    assert [p.name for p in images.readable([*broken, *files], 3, print)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(ExportError, match=r"none of its 3 images can be read, the first is .*cut\.jpg"):
        images.readable(broken, 2, print)


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
