"""Models by stub: packed from a run, found in a directory, a mirror, the cache or through the vendor's own client."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yolov5
from conftest import call, command, results, small_file_system, yolov5_train, zoo_command
from zoo_server import STUB, Flaky, Vendor, serving

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin import stubs as stub
from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.errors import OptionError, ZooError
from yolov5_sparse_plugin.zoo import client, files, layout, locate
from yolov5_sparse_plugin.zoo.sources import Settings

SHORT = "zoo:yolov5-n-shapes-pruned60_quantized"
PLACE = STUB[len("zoo:") :]
TWO_EPOCHS = "num_epochs=2,warmup_epochs=0.5,quantization_start_epoch=1"


def find(kind: str, address: str, **settings) -> Path:
    return locate.find(stub.parse(address), kind, Settings(**settings), address).path


@pytest.fixture
def zoo(packed, tmp_path) -> Path:
    """A copy of the zoo folder that a test may damage."""
    return shutil.copytree(packed.folder, tmp_path / "zoo")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPARSEZOO_MODELS_PATH", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def vendor(packed, cache, monkeypatch):
    """The vendor's server, as far as the real client can tell; its handler has `mode` and `requests`."""
    if client.missing():
        pytest.skip(f"the vendor's zoo: {client.missing()}")
    with serving(Vendor, packed.folder) as (address, handler):
        monkeypatch.setenv("SPARSEZOO_API_URL", address)
        yield handler


# ------------------------------------------------------------------------------------------------------------- stubs


@pytest.mark.parametrize(
    "address, path, recipe_type",
    [
        (STUB, PLACE, None),
        (STUB + "?recipe_type=transfer", PLACE, "transfer"),
        (STUB + "?recipe=transfer_learn", PLACE, "transfer_learn"),
        (f" {STUB}?recipe_type=original ", PLACE, "original"),
        (
            "zoo:yolov5-s-coco-pruned75_quantized",
            "cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned75_quantized",
            None,
        ),
        (
            "zoo:yolov5-s-coco-pruned35_quant-none-vnni?recipe=x",
            "cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned35_quant-none-vnni",
            "x",
        ),
    ],
)
def test_both_forms_of_a_stub_name_one_folder(address, path, recipe_type):
    found = stub.parse(address)
    assert (found.path, found.recipe_type) == (path, recipe_type)
    assert stub.parse(str(found)).path == path


def test_the_two_forms_find_each_other():
    long, short = stub.parse(STUB), stub.parse(SHORT)
    assert long.path in short.places and short.path in long.places
    assert long.short == SHORT[4:]
    assert stub.parse("zoo:yolov5-s-coco-base").places == [p.replace("X", "base") for p in _around("X", "X-none")]


def _around(*names):
    return [f"cv/detection/yolov5-s/pytorch/ultralytics/coco/{name}" for name in names]


@pytest.mark.parametrize(
    "address, message",
    [
        ("pruned.pt", "a stub starts with 'zoo:'"),
        ("zoo:", "the short form is zoo:ARCHITECTURE-SIZE-DATASET-NAME"),
        ("zoo:yolov5-s-coco", "the short form is"),
        ("zoo:cv/detection/yolov5-s/coco/x", "the long form has 7 parts between slashes, this has 5"),
        ("zoo:cv/detection/yolov5-s/pytorch/ultralytics/../x", "'..' cannot be part of a stub"),
        ("zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/..", "'..' cannot be part of a stub"),
        ("zoo:/etc/detection/yolov5-s/pytorch/coco/passwd", "'' cannot be part of a stub"),
        ("zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/.hidden", "'.hidden' cannot be part"),
        ("zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/a\\..\\b", "cannot be part of a stub"),
        (STUB + "?recipe_typ=transfer", "no 'recipe_typ' after the '?'. Did you mean 'recipe_type'"),
        (STUB + "?recipe=../../x", "recipe needs a recipe's name"),
        (STUB + "?recipe", "recipe needs a recipe's name"),
    ],
)
def test_what_is_no_stub_is_refused_with_an_example(address, message):
    with pytest.raises(ZooError) as caught:
        stub.parse(address)
    assert message in str(caught.value)


def test_a_typo_names_the_nearest_stubs_that_exist_and_those_that_existed(packed, cache):
    typo = STUB.replace("pruned60_quant", "prund60_quant")
    with pytest.raises(ZooError) as caught:
        find("weights", typo, directories=(packed.folder,), sources=("directory", "cache"), cache=cache)
    assert f"Nearest: {STUB}." in str(caught.value)
    with pytest.raises(ZooError) as caught:
        find("weights", "zoo:yolov5-s-coco-pruned75_quantised", sources=("cache",), cache=cache)
    assert (
        "that the vendor published until 2025: zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned75_quant"
        in (str(caught.value))
    )


# ------------------------------------------------------------------------------------------------- a zoo of one's own


def test_add_packs_weights_recipes_onnx_card_and_index(packed, finished):
    folder = packed.folder / PLACE
    assert sorted(layout.contents(folder)) == sorted(
        [layout.MODEL, layout.CHECKPOINT, layout.ORIGINAL, layout.TRANSFER, layout.ONNX, layout.CARD]
    )
    assert (folder / layout.MODEL).read_bytes() == (finished.weights / "best.pt").read_bytes()
    start = reading.read(folder / layout.CHECKPOINT)["sparse"]
    assert start["phase"] == "pruned" and start["sparsity"] == pytest.approx(0.6, abs=1e-4)
    assert "MagnitudePruningModifier" in (folder / layout.ORIGINAL).read_text()
    assert "ConstantPruningModifier" in (folder / layout.TRANSFER).read_text()
    index = layout.read_index((packed.folder / "index.json").read_text())
    assert index[PLACE] == layout.describe(folder)
    assert index[PLACE]["about"]["phase"] == "pruned_quantized"
    assert sorted(p.name for p in packed.folder.iterdir() if not p.name.endswith(".lock")) == ["cv", "index.json"]


def test_the_card_says_phase_sparsity_metrics_sizes_and_use(packed):
    card = (packed.folder / PLACE / layout.CARD).read_text()
    for words in ("pruned_quantized", "| 60.0% |", "mAP50-95", "disc, box, cross", "`deployment/model.onnx`"):
        assert words in card
    assert f"--sparse-recipe '{STUB}?recipe_type=transfer'" in card


def test_both_recipes_of_a_packed_run_can_be_read(packed):
    from yolov5_sparse_plugin import recipes_io
    from yolov5_sparse_plugin.engine import engines

    original, transfer = (
        engines.load(recipes_io.read(str(packed.folder / PLACE / name)), {})
        for name in (layout.ORIGINAL, layout.TRANSFER)
    )
    assert original.epochs == 5 and original.quantization
    assert transfer.epochs == 52 and transfer.quantization


def test_add_overwrites_only_with_force_and_leaves_nothing_half_written(zoo, finished, tmp_path):
    before = snapshot(zoo)
    run = zoo_command(tmp_path, "add", finished.folder, STUB, "--zoo", zoo, status=2)
    assert "is there already" in run.output and "--force" in run.output
    assert snapshot(zoo) == before
    zoo_command(tmp_path, "add", finished.folder, STUB, "--zoo", zoo, "--force")  # this one has no ONNX file
    assert not (zoo / PLACE / layout.ONNX).exists()
    assert layout.ONNX not in layout.read_index((zoo / "index.json").read_text())[PLACE]["files"]
    for words, message in (
        (["add", tmp_path, SHORT, "--zoo", zoo], "there is no weights/best.pt in it"),
        (["add", finished.folder, SHORT], "into which zoo?"),
        (["add", finished.folder, SHORT + "?recipe=x", "--zoo", zoo], "a '?' asks for a part of a model"),
        (["add", finished.folder, "zoo:a/b", "--zoo", zoo], "the long form has 7 parts"),
    ):
        assert message in zoo_command(tmp_path, *words, status=2).output
    assert not list(zoo.glob(".adding-*"))


def snapshot(folder: Path) -> dict[str, str]:
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}
    return {name: files.sha256(path) for name, path in found.items()}


def test_add_on_a_full_disk_leaves_the_zoo_as_it_was(finished, small_disk, tmp_path):
    run = zoo_command(tmp_path, "add", finished.folder, STUB, "--zoo", small_disk, status=2)
    assert "cannot be written (No space left on device)" in run.output and "Traceback" not in run.output
    assert [p.name for p in small_disk.iterdir()] == []


def test_a_plain_run_can_be_packed_too(plain, tmp_path):
    zoo_command(tmp_path, "add", plain.folder, "zoo:yolov5-n-shapes-base", "--zoo", tmp_path / "zoo")
    folder = tmp_path / "zoo" / stub.parse("zoo:yolov5-n-shapes-base").path
    assert sorted(layout.contents(folder)) == [layout.CARD, layout.CHECKPOINT, layout.MODEL]
    assert "| phase | dense |" in (folder / layout.CARD).read_text()


def test_list_and_show_tell_what_there_is(packed, tmp_path):
    listed = zoo_command(tmp_path, "list", YOLOV5_SPARSE_ZOO=str(packed.folder)).output
    assert f"directory {packed.folder}:\n  {STUB}  pruned_quantized, 60.0% zeros, mAP50 " in listed
    shown = zoo_command(tmp_path, "show", SHORT, "--zoo", packed.folder).output
    assert "recipe/recipe_transfer_learn.md" in shown and "## Use it" in shown
    assert "No models. Add one with" in zoo_command(tmp_path, "list").output


def test_get_prints_paths_and_each_request_has_its_file(packed, tmp_path):
    for words, name in (
        ([STUB, "weights"], layout.MODEL),
        ([SHORT + "?recipe_type=transfer", "weights"], layout.CHECKPOINT),
        ([SHORT, "recipe"], layout.ORIGINAL),
        ([SHORT + "?recipe_type=transfer_learn", "recipe"], layout.TRANSFER),
        ([SHORT + "?recipe=transfer", "recipe"], layout.TRANSFER),
        ([SHORT, "onnx"], layout.ONNX),
    ):
        run = zoo_command(tmp_path, "get", *words, "--zoo", packed.folder)
        assert run.output == f"{packed.folder / PLACE / name}\n"
    run = zoo_command(tmp_path, "get", STUB, "--zoo", packed.folder)
    assert [line.split()[0] for line in run.output.splitlines()] == list(layout.KINDS)


def test_a_recipe_that_a_model_lacks_is_named_with_those_it_has(packed, cache):
    with pytest.raises(ZooError, match="has no recipe 'distill'; this model's recipes: original, transfer_learn"):
        find("recipe", STUB + "?recipe=distill", directories=(packed.folder,), sources=("directory",), cache=cache)


def test_a_transfer_falls_back_to_the_finished_model(zoo, cache):
    (zoo / PLACE / layout.CHECKPOINT).unlink()
    layout.write_index(zoo, {PLACE: layout.describe(zoo / PLACE)})
    found = find("weights", STUB + "?recipe_type=transfer", directories=(zoo,), sources=("directory",), cache=cache)
    assert found == zoo / PLACE / layout.MODEL


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:1000], "has 1000 bytes instead of"),
        (lambda data: data[:-1] + b"x", "is corrupt: sha256"),
        (None, "is gone, index.json lists it"),
    ],
)
def test_a_damaged_file_is_never_used_and_check_says_how_to_mend(zoo, cache, damage, message, tmp_path):
    file = zoo / PLACE / layout.MODEL
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ZooError, match=message):
        find("weights", STUB, directories=(zoo,), sources=("directory", "cache"), cache=cache)
    run = zoo_command(tmp_path, "check", "--zoo", zoo, status=1)
    assert f"{PLACE}/{layout.MODEL}: " in run.output and "add the run again with --force" in run.output
    assert "5 files verified, 1 faults" in run.output


def test_check_is_content_with_a_sound_zoo_and_makes_an_index_where_there_is_none(zoo, tmp_path):
    assert "6 files verified, 0 faults" in zoo_command(tmp_path, "check", "--zoo", zoo).output
    before = (zoo / "index.json").read_text()
    (zoo / "index.json").unlink()
    assert "not in the index. Take it in with --write-index" in (
        zoo_command(tmp_path, "check", "--zoo", zoo, status=1).output
    )
    zoo_command(tmp_path, "check", "--zoo", zoo, "--write-index")
    assert (zoo / "index.json").read_text() == before
    (zoo / "index.json").write_text("{")
    assert "index.json is not JSON. Make it anew with --write-index" in (
        zoo_command(tmp_path, "check", "--zoo", zoo, status=1).output
    )


def test_a_folder_without_an_index_still_refuses_truncated_checkpoints(zoo, cache):
    (zoo / "index.json").unlink()
    assert find("weights", STUB, directories=(zoo,), sources=("directory",), cache=cache)
    file = zoo / PLACE / layout.MODEL
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(ZooError, match="not a complete checkpoint"):
        find("weights", STUB, directories=(zoo,), sources=("directory",), cache=cache)


def test_the_vendors_clients_own_cache_is_read(packed, cache):
    own = cache / "neuralmagic" / SHORT[4:]  # files side by side, in a folder named after the short form
    own.mkdir(parents=True)
    for name in (layout.MODEL, layout.ORIGINAL):
        shutil.copyfile(packed.folder / PLACE / name, own / Path(name).name)
    assert find("weights", STUB, sources=("cache",), cache=cache) == own / "model.pt"
    assert find("recipe", SHORT, sources=("cache",), cache=cache) == own / "recipe_original.md"


# ------------------------------------------------------------------------------------------------------------ mirrors


@pytest.fixture
def mirror(zoo, cache):
    """A mirror of a zoo that a test may damage: its address, and the handler with `mode` and `requests`."""
    with serving(Flaky, zoo) as (address, handler):
        yield address, handler


def from_mirror(address, cache, kind="weights", timeout=2.0, sources=("mirror", "cache"), stub=STUB):
    return find(kind, stub, mirror=address, sources=sources, cache=cache, timeout=timeout)


def test_a_mirrors_file_lands_in_the_cache_and_is_at_hand_from_then_on(mirror, cache, packed):
    address, handler = mirror
    found = from_mirror(address, cache)
    assert found == cache / PLACE / layout.MODEL
    assert found.read_bytes() == (packed.folder / PLACE / layout.MODEL).read_bytes()
    asked = len(handler.requests)
    assert from_mirror(address, cache) == found
    assert len(handler.requests) == asked == 2  # the index, the file


def test_no_network_call_is_made_for_a_model_in_a_directory(mirror, vendor, packed, cache):
    address, handler = mirror
    find("weights", STUB, directories=(packed.folder,), mirror=address, cache=cache)
    assert handler.requests == [] and vendor.requests == []


def test_a_broken_download_is_resumed_where_it_stopped(mirror, cache, capfd):
    address, handler = mirror
    handler.mode = "breaks"
    found = from_mirror(address, cache)
    first, second = (asked for path, asked in handler.requests if path.endswith(".pt"))
    assert first is None and found.stat().st_size // 3 < int(second[len("bytes=") : -1]) < found.stat().st_size // 2
    assert "100%" in capfd.readouterr().err and not list(cache.rglob("*.part"))


def test_an_interrupted_download_is_resumed_by_the_next_process(mirror, cache, packed):
    address, handler = mirror
    data = (packed.folder / PLACE / layout.MODEL).read_bytes()
    part = cache / PLACE / "training" / f".model.pt.{files.sha256(packed.folder / PLACE / layout.MODEL)[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:12345])
    assert from_mirror(address, cache).read_bytes() == data
    assert handler.requests[-1][1] == "bytes=12345-"


@pytest.mark.parametrize(
    "mode, message",
    [("500", "the server answers 500"), ("hangs", "no answer within 0.5 s"), ("long", "sends more than the")],
)
def test_a_failing_mirror_is_a_line_of_the_error(mirror, cache, mode, message):
    address, handler = mirror
    handler.mode = mode
    with pytest.raises(ZooError) as caught:
        from_mirror(address, cache, timeout=0.5)
    assert f"mirror {address}: " in str(caught.value) and message in str(caught.value)
    handler.mode = "works"
    assert from_mirror(address, cache).is_file()  # the cache stays usable


def test_a_file_that_is_not_what_the_index_says_is_never_used(mirror, cache, zoo):
    address, _ = mirror
    file = zoo / PLACE / layout.MODEL
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"x")
    with pytest.raises(ZooError, match="model.pt is not what its index says: model.pt is corrupt: sha256"):
        from_mirror(address, cache)
    assert not list(cache.rglob("*.pt")) and not list(cache.rglob("*.part"))
    file.write_bytes(good)
    assert from_mirror(address, cache).read_bytes() == good


@pytest.mark.parametrize("name", ["../../../../x.pt", "/etc/passwd", "training/../../x", ".hidden", "a/b/c", "a\\b"])
def test_an_index_that_names_files_outside_of_a_model_is_refused(mirror, cache, zoo, name):
    index = json.loads((zoo / "index.json").read_text())
    index["models"][PLACE]["files"][name] = index["models"][PLACE]["files"][layout.MODEL]
    (zoo / "index.json").write_text(json.dumps(index))
    with pytest.raises(ZooError, match="which is not a file of a model's folder"):
        from_mirror(mirror[0], cache)


@pytest.mark.parametrize(
    "content, message",
    [
        ("<html>", "not JSON"),
        ("[]", "not an index of format"),
        ("[" * 200_000, "not JSON"),
        ({"../x": {"files": {}}}, "which is no model"),
        ({PLACE: {"files": {"model.md": {"size": -1, "sha256": "0" * 64}}}}, "no size and sha256"),
        ({PLACE: {"files": {"model.md": {"size": 3, "sha256": "../x"}}}}, "no size and sha256"),
        ({PLACE: []}, "which is no model"),
    ],
)
def test_a_mirrors_index_is_not_trusted(content, message):
    text = content if isinstance(content, str) else json.dumps({"format": layout.FORMAT, "models": content})
    with pytest.raises(files.Unusable, match=message):
        layout.read_index(text)


def test_refresh_replaces_what_the_mirror_replaced(mirror, cache, zoo, tmp_path):
    address, handler = mirror
    first = from_mirror(address, cache, "card")
    from_mirror(address, cache)
    (zoo / PLACE / layout.CARD).write_text("---\nphase: pruned\n---\n\n# new\n")
    shutil.copyfile(zoo / PLACE / layout.CHECKPOINT, zoo / PLACE / layout.MODEL)
    layout.write_index(zoo, {PLACE: layout.describe(zoo / PLACE)})
    assert "new" not in from_mirror(address, cache, "card").read_text()
    zoo_command(tmp_path, "get", STUB, "weights", "--refresh", "--mirror", address)
    assert not first.exists()  # it belonged to the model that is gone
    assert "new" in from_mirror(address, cache, "card").read_text()
    assert zoo_command(tmp_path, "check").output.count("0 faults") == 1


def test_two_processes_download_once(mirror, cache, tmp_path):
    address, handler = mirror
    words = ["get", STUB, "weights", "--mirror", address]
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: zoo_command(tmp_path, *words), range(3)))
    assert {run.output.splitlines()[-1] for run in runs} == {str(cache / PLACE / layout.MODEL)}
    assert len([path for path, _ in handler.requests if path.endswith(".pt")]) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB: half a checkpoint fits."""
    with small_file_system(tmp_path / "small", "3m") as folder:
        yield folder


def test_a_full_disk_in_the_middle_of_a_download_is_said_and_leaves_nothing(mirror, small_disk):
    with pytest.raises(ZooError, match=r"the disk of .* is full; \d+\.\d MB are needed"):
        from_mirror(mirror[0], small_disk)
    assert not [p for p in small_disk.rglob("*") if p.is_file() and p.stat().st_size]
    assert from_mirror(mirror[0], small_disk, "card").is_file()  # what fits still comes


def test_a_mirror_that_cannot_be_reached_or_is_no_address(cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ZooError, match="the connection is refused"):
            from_mirror(address, cache)
    with pytest.raises(ZooError, match="must start with http"):
        from_mirror("file:///etc", cache)


def test_serve_offers_what_the_index_lists_and_nothing_else_and_ends_with_ctrl_c(zoo, tmp_path):
    import requests

    (zoo / "secret.txt").write_text("x")
    (zoo / PLACE / layout.TRANSFER).unlink()
    (zoo / PLACE / layout.TRANSFER).symlink_to(zoo.parent / "outside.txt")  # listed, but not in this folder
    (zoo.parent / "outside.txt").write_text("x")
    words = [command("yolov5-sparse"), "zoo", "serve", zoo, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # of a suite that runs in the background, children inherit that Ctrl-C is ignored
    with subprocess.Popen(words, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as server:
        address = server.stdout.readline().split()[-1]
        try:
            url = f"{address}/{PLACE}/{layout.MODEL}"
            whole, listed = requests.get(url).content, layout.describe(zoo / PLACE)["files"][layout.MODEL]
            assert len(whole) == listed["size"]
            part = requests.get(url, headers={"Range": "bytes=100-199"})
            assert part.status_code == 206 and part.content == whole[100:200]
            assert part.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
            assert requests.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
            assert requests.head(url).headers["Content-Length"] == str(len(whole))
            for path in ("secret.txt", "", "%2e%2e/zoo/secret.txt", f"{PLACE}/training", f"{PLACE}/{layout.TRANSFER}"):
                assert requests.get(f"{address}/{path}").status_code == 404, path
            got = zoo_command(tmp_path, "get", SHORT, "recipe", "--mirror", address)
            assert Path(got.output.splitlines()[-1]).read_bytes() == (zoo / PLACE / layout.ORIGINAL).read_bytes()
        finally:
            server.send_signal(signal.SIGINT)
            killer = threading.Timer(30, server.kill)
            killer.start()
        assert server.wait() == 130
        killer.cancel()
        assert "interrupted" in server.stderr.read()
    assert "there is no index.json in it" in zoo_command(tmp_path, "serve", tmp_path, status=2).output


# --------------------------------------------------------------------------------------------------------- the vendor


def from_vendor(cache, kind="weights", address=STUB, timeout=20.0):
    return find(kind, address, sources=("cache", "vendor"), cache=cache, timeout=timeout)


def test_the_real_client_fetches_both_forms_into_the_cache_once(vendor, cache, packed):
    found = from_vendor(cache, address=SHORT + "?recipe_type=transfer")
    assert found.read_bytes() == (packed.folder / PLACE / layout.CHECKPOINT).read_bytes()
    asked = list(vendor.requests)
    assert asked.count("POST /v2/graphql") == 1
    assert from_vendor(cache, address=STUB + "?recipe_type=transfer") == found  # the other form, from the cache
    assert vendor.requests == asked
    assert from_vendor(cache, "recipe").read_bytes() == (packed.folder / PLACE / layout.ORIGINAL).read_bytes()
    assert not list(cache.glob(".vendor-*"))


@pytest.mark.parametrize(
    "mode, message",
    [
        ("404", "the server answers 404"),
        ("500", "the server answers 500"),
        ("empty", "the server has no such model"),
        ("garbage", "the server's answer is not JSON"),
        ("odd", "does not understand the server's answer"),
        ("hang", "no answer within 1 s"),
        ("lost", "model.pt arrived with 16 bytes, the server lists"),
        ("short", "bytes, the server lists"),
        ("cut", "the connection broke"),
    ],
)
def test_a_failing_vendor_is_a_line_of_the_error(vendor, cache, mode, message, capfd):
    vendor.mode = mode
    with pytest.raises(ZooError) as caught:
        from_vendor(cache, timeout=1.0)
    line = next(line for line in str(caught.value).splitlines() if line.startswith("  vendor http://127.0.0.1"))
    assert message in line
    assert "Traceback" not in capfd.readouterr().err
    assert not list(cache.rglob("*.pt")) and not list(cache.glob(".vendor-*"))


def test_a_full_disk_in_the_middle_of_the_vendors_download_is_said_and_leaves_nothing(vendor, small_disk):
    with pytest.raises(ZooError, match="No space left on device"):
        from_vendor(small_disk)
    assert not [p for p in small_disk.rglob("*") if p.is_file() and p.stat().st_size]
    assert from_vendor(small_disk, "recipe").is_file()


def test_two_processes_ask_the_vendor_once(vendor, cache, tmp_path):
    vendor.mode = "slow"
    env = {"SPARSEZOO_API_URL": os.environ["SPARSEZOO_API_URL"]}
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: zoo_command(tmp_path, "get", STUB, "weights", **env), range(2)))
    assert {run.output.splitlines()[-1] for run in runs} == {str(cache / PLACE / layout.MODEL)}
    assert vendor.requests.count("POST /v2/graphql") == 1


def test_without_its_client_the_vendor_is_left_out_in_a_sentence_and_nothing_is_written(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "sparsezoo", None)  # as where it does not install
    why = "SparseZoo needs Python < 3.12" if sys.version_info >= (3, 12) else "install it with: pip install 'sparsezoo"
    with pytest.raises(ZooError) as caught:
        from_vendor(cache)
    line = next(line for line in str(caught.value).splitlines() if line.startswith("  vendor "))
    assert why in line and "Zoo folders, the cache and mirrors work without it" in line
    assert not list(cache.iterdir())


def test_status_and_get_say_why_the_vendor_is_left_out(tmp_path):
    if not client.missing():
        pytest.skip("the vendor's client is installed")
    said = call([command("yolov5-sparse"), "status"], tmp_path).output
    assert f"the vendor's zoo is left out: {client.missing()}" in said
    run = zoo_command(tmp_path, "get", STUB, "weights", status=2)
    assert client.missing() in run.output and "Traceback" not in run.output


# ------------------------------------------------------------------------------------------- YOLOv5's commands by stub


def transferred(run, epochs=2):
    """Assert that a run went on from the stub's pruned weights, kept their zeros and quantized at its end."""
    assert results(run)["epoch"] == list(range(epochs))
    assert "Transferred 349/349 items" in run.output
    part = reading.read(run.weights / "last.pt")["sparse"]
    assert part["phase"] == "pruned_quantized"
    assert part["sparsity"] == pytest.approx(0.6, abs=1e-4)


def transfer_words(*more):
    return ["--sparse-recipe", STUB + "?recipe_type=transfer", "--sparse-recipe-args", TWO_EPOCHS, *more]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_epochs_of_transfer_from_a_plain_file_server(packed, shapes, tmp_path):
    port = free_port()
    words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", packed.folder]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            env = {"SPARSEZOO_MODELS_PATH": str(tmp_path / "cache")}
            more = transfer_words("--sparse-zoo-mirror", f"http://127.0.0.1:{port}")
            transferred(yolov5_train(tmp_path, shapes, *more, weights=SHORT + "?recipe_type=transfer", env=env))
        finally:
            server.terminate()
    assert (tmp_path / "cache" / PLACE / layout.CHECKPOINT).is_file()


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


def test_two_epochs_of_transfer_through_the_vendors_real_client(vendor, cache, shapes, tmp_path):
    env = {name: os.environ[name] for name in ("SPARSEZOO_MODELS_PATH", "SPARSEZOO_API_URL")}
    transferred(yolov5_train(tmp_path, shapes, *transfer_words(), weights=STUB + "?recipe_type=transfer", env=env))
    assert vendor.requests.count("POST /v2/graphql") == 2  # the weights, the recipe
    assert not list(cache.glob(".vendor-*"))


VAL = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False, "project": "v"}


def test_val_by_stub_measures_what_val_by_path_measures(packed, shapes, tmp_path, monkeypatch):
    import yolov5.val

    monkeypatch.chdir(tmp_path)
    (precision, recall, map50, *_), *_ = yolov5.val.run(str(shapes), str(packed.folder / PLACE / layout.MODEL), **VAL)
    words = ["val", "--data", shapes, "--imgsz", 64, "--device", "cpu", "--workers", 0, "--weights", SHORT]
    run = call([command("yolov5"), *words, "--sparse-zoo", packed.folder], tmp_path)
    row = next(line.split() for line in run.output.splitlines() if line.split()[:1] == ["all"])
    assert [float(value) for value in row[3:6]] == pytest.approx([precision, recall, map50], rel=0.01)
    assert f"sparse: {SHORT} from directory {packed.folder}" in run.output


def test_python_m_detect_takes_stubs(packed, shapes, tmp_path):
    words = ["--weights", SHORT, "--source", shapes.parent / "images" / "val", "--imgsz", 64, "--device", "cpu"]
    run = call([sys.executable, "-m", "yolov5.detect", *words, "--nosave", "--sparse-zoo", packed.folder], tmp_path)
    assert "image 16/16" in run.output and f"sparse: {SHORT} from directory" in run.output


def test_val_detect_load_and_export_by_stub_from_python(packed, shapes, tmp_path, monkeypatch, capfd):
    import yolov5
    import yolov5.detect
    import yolov5.export
    import yolov5.val

    monkeypatch.chdir(tmp_path)
    yolov5.val.run(str(shapes), [SHORT, STUB], sparse_zoo=str(packed.folder), **VAL)
    assert "Ensemble created with" in capfd.readouterr().out
    monkeypatch.setenv("YOLOV5_SPARSE_ZOO", str(packed.folder))  # where no option can be given
    model = yolov5.load(SHORT, device="cpu")
    assert model.model.model.names == {0: "disc", 1: "box", 2: "cross"}
    source = str(shapes.parent / "images" / "val")
    yolov5.detect.run(weights=SHORT, source=source, imgsz=(64, 64), device="cpu", project="d", save_txt=True)
    assert (tmp_path / "d" / "exp" / "labels").is_dir()
    before = snapshot(packed.folder)
    (written,) = yolov5.export.run(weights=STUB, include="onnx", imgsz=64, device="cpu")
    assert Path(written) == tmp_path / f"{SHORT[4:]}.onnx"  # in the current folder, not in the zoo
    assert snapshot(packed.folder) == before
    (tmp_path / f"{SHORT[4:]}.pt").write_bytes(b"my own")
    with pytest.raises(ZooError, match="which is another file. Move that away first"):
        yolov5.export.run(weights=STUB, include="onnx", imgsz=64, device="cpu")


def test_weights_by_a_stub_that_nobody_has_are_refused(tmp_path, shapes, monkeypatch, cache):
    import yolov5
    import yolov5.segment.train

    absent = "zoo:yolov5-n-shapes-none"
    monkeypatch.setenv("YOLOV5_SPARSE_ZOO_SOURCES", "directory,cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=f"--weights {absent}: no source has the weights"):
        yolov5.load(absent)
    with pytest.raises(ZooError, match=f"--weights {absent}: no source has the weights"):
        yolov5.segment.train.run(data=str(shapes), weights=absent, cfg="yolov5n-seg.yaml", device="cpu", imgsz=64)
    (tmp_path / "val").mkdir()
    words = ["val", "--data", shapes, "--weights", absent, "--sparse-zoo-sources", "cache"]
    run = call([command("yolov5"), *words], tmp_path / "val", status=2, SPARSEZOO_MODELS_PATH=str(cache))
    assert f"yolov5-sparse: error: --weights {absent}: no source" in run.output
    assert "Traceback" not in run.output and not list((tmp_path / "val").iterdir())


def test_misspelt_flags_of_val_and_detect_are_named_and_their_help_lists_the_zoos(tmp_path):
    import yolov5.detect

    for typed, message in (
        ({"sparse_zo": "x"}, "--sparse-zo: no such option. Did you mean '--sparse-zoo'"),
        ({"wieghts": "x"}, "--wieghts: no such option. Did you mean '--weights'"),
        ({"sparse_target": "openvino"}, "an option of 'yolov5 export', not of 'yolov5 detect'"),
    ):
        with pytest.raises(OptionError) as caught:
            yolov5.detect.run(**typed)
        assert message in str(caught.value)
    assert "sparse_zoo_mirror" in inspect.signature(yolov5.detect.run).parameters
    run = call([command("yolov5"), "val", "--help"], tmp_path, PAGER="cat")
    assert "sparse_zoo_mirror" in run.output and "weights" in run.output
    assert "error: yolov5 val: needs --data." in call([command("yolov5"), "val"], tmp_path, status=2).output


@pytest.mark.parametrize(
    "typed, message",
    [
        ({"sparse_zoo_sources": "directory,vendr"}, "no source 'vendr'. Did you mean 'vendor'"),
        ({"sparse_zoo_timeout": "soon"}, "--sparse-zoo-timeout: expected a number of seconds, got 'soon'"),
        ({"sparse_zoo_timeout": 0}, "expected a number of seconds, got 0"),
        ({"sparse_zoo": 3}, "--sparse-zoo: expected one or more paths, got 3"),
        ({"sparse_zoo_mirror": True}, "--sparse-zoo-mirror: needs a value"),
    ],
)
def test_mistakes_in_the_zoo_options_are_named(typed, message, tmp_path):
    with pytest.raises(OptionError) as caught:
        options.resolve(typed, environ={}, cwd=tmp_path, command="val")
    assert message in str(caught.value)


def test_sources_are_switched_in_the_config_file_and_local_ones_go_first(tmp_path):
    folders = f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"
    (tmp_path / "yolov5-sparse.yaml").write_text("zoo_sources: [vendor, mirror, directory]\n")
    chosen = Settings.of(options.resolve({}, environ={"YOLOV5_SPARSE_ZOO": folders}, cwd=tmp_path, command="val"))
    assert [source.name for source in chosen.in_order()] == ["directory", "vendor", "mirror"]
    assert chosen.directories == (tmp_path / "a", tmp_path / "b")
    default = Settings.of(options.resolve({}, environ={}, cwd=tmp_path.parent, command="val"))
    assert [source.name for source in default.in_order()] == ["directory", "cache", "mirror", "vendor"]


class Hostile:
    """Pickles as a call of `os.system`."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("door", ["load", "attempt_load", "DetectMultiBackend", "val"])
def test_a_checkpoint_from_a_zoo_calls_nothing_of_its_makers(door, cache, tmp_path, monkeypatch):
    from yolov5 import val
    from yolov5.models.common import DetectMultiBackend
    from yolov5.models.experimental import attempt_load

    folder = tmp_path / "hostile" / PLACE / "training"
    folder.mkdir(parents=True)
    torch.save({"model": Hostile(tmp_path / "ran"), "ema": None, "epoch": -1}, folder / "model.pt")
    monkeypatch.setenv("YOLOV5_SPARSE_ZOO", str(tmp_path / "hostile"))
    doors = {
        "load": yolov5.load,
        "attempt_load": attempt_load,
        "DetectMultiBackend": DetectMultiBackend,
        "val": lambda weights: val.run(data="coco128.yaml", weights=weights, device="cpu"),
    }
    with pytest.raises(Exception, match="wants to call os.system"):
        doors[door](STUB)
    assert not (tmp_path / "ran").exists()
