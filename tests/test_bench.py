"""`yolov5-sparse bench` measures models in the real engines, `status` advises by this CPU; mistakes get a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time

import numpy as np
import onnx
import psutil
import pytest
from conftest import call, clean_environment, command
from onnx import TensorProto, helper, numpy_helper

from yolov5_sparse_plugin import cpu
from yolov5_sparse_plugin.bench import child, table
from yolov5_sparse_plugin.bench.measure import ENGINES, measure
from yolov5_sparse_plugin.errors import BenchError

HERE = [name for name, engine in ENGINES.items() if engine.installed()]
ABSENT = [name for name in ENGINES if name not in HERE]
needs_engine = pytest.mark.skipif(not HERE, reason="no engine is installed: pip install onnxruntime")


def write_model(path, shape=(1, 3, 32, 32), dtype=TensorProto.FLOAT, convolutions=1, operator=None):
    """Write a model of `convolutions` 3x3 convolutions; `operator` stands for one that no engine knows."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "images"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], ["cast"], to=TensorProto.FLOAT))
        last = "cast"
    for i in range(convolutions):
        weights.append(numpy_helper.from_array(random.standard_normal((3, 3, 3, 3), dtype=np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        last = f"c{i}"
    nodes.append(helper.make_node(operator or "Relu", [last], ["output0"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ("b", 3, "h", "w"))],
        weights,
    )
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of small models, by what is special about them."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "static.onnx")
    write_model(folder / "deeper.onnx", convolutions=3)
    write_model(folder / "dynamic.onnx", shape=("batch", 3, "height", "width"))
    write_model(folder / "bytes.onnx", dtype=TensorProto.UINT8)
    write_model(folder / "unknown.onnx", operator="Magic")
    write_model(folder / "exp" / "static.onnx")
    return folder


def bench(folder, *words, status=0):
    return call([command("yolov5-sparse"), "bench", *words], folder, status).output


def refused(folder, *words):
    """Run `yolov5-sparse bench`, which must refuse in one line, before it measures."""
    output = bench(folder, *words, status=2)
    assert "Traceback" not in output and "images/s" not in output
    return next(line for line in output.splitlines() if line.startswith("yolov5-sparse: error: bench "))


@needs_engine
def test_markup_in_a_file_name_is_text(tiny):
    name = "[red]a:warning:.onnx"
    (tiny / name).write_bytes((tiny / "static.onnx").read_bytes())
    output = bench(tiny, name, "static.onnx", "--rounds", 1, "--threads", 1, "--engine", HERE[0])
    assert output.count(name) == 2, "in the table, and in the line below it"


@needs_engine
def test_every_installed_engine_measures_every_model(tiny):
    bench(tiny, "static.onnx", "deeper.onnx", "bytes.onnx", "--rounds", 3, "--threads", 1, "--json", "all.json")
    found = json.loads((tiny / "all.json").read_text())
    assert [(row["engine"], row["model"]) for row in found["rows"]] == [
        (engine, model) for engine in HERE for model in ("static.onnx", "deeper.onnx", "bytes.onnx")
    ]
    for i, row in enumerate(found["rows"]):
        assert row["error"] is None and row["megabytes"] > 0
        assert row["images_per_second"] == pytest.approx(1000 / row["milliseconds"])
        first = found["rows"][i - i % 3]
        assert row["ratio"] == pytest.approx(row["milliseconds"] / first["milliseconds"])
        assert i % 3 or row["ratio"] == 1.0
    assert found["engines"] == {engine: ENGINES[engine].version() for engine in HERE}
    assert found["cpu"]["name"] == cpu.detect().name
    assert (found["threads"], found["batch"], found["img"], found["rounds"]) == (1, 1, None, 3)


@needs_engine
def test_the_table_names_models_engines_and_what_is_missing(tiny):
    output = bench(tiny, "static.onnx", "exp/static.onnx", "--rounds", 2)
    header = next(line for line in output.splitlines() if "engine" in line)
    assert header.split() == ["engine", "model", "ms", "images/s", "ratio", "MB"]
    for engine in HERE:
        line = next(line for line in output.splitlines() if line.strip().startswith(ENGINES[engine].title))
        assert " 1.00 " in line
    assert output.count("exp/static.onnx") == len(HERE)
    for engine in ABSENT:
        assert f"{ENGINES[engine].title} is not installed here: {ENGINES[engine].pip}" in output


@needs_engine
def test_json_on_stdout_is_nothing_but_json(tiny):
    done = subprocess.run(
        [command("yolov5-sparse"), "bench", "static.onnx", "--engine", HERE[0], "--rounds", "2", "--json", "-"],
        cwd=tiny,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["rows"]) == 1
    assert "images/s" in done.stderr


@needs_engine
def test_a_dynamic_model_takes_the_batch_and_size_that_are_asked_for(tiny):
    for row in measure([tiny / "dynamic.onnx"], HERE, batch=2, img=64, rounds=2, warmup=1):
        assert row.error is None
        assert row.images_per_second == pytest.approx(2000 / row.milliseconds)


@needs_engine
def test_no_engine_changes_a_model_or_leaves_a_file(tiny, tmp_path, monkeypatch):
    """DeepSparse overwrites a dynamic model when it is asked for a shape by its own means."""
    before = {path: path.read_bytes() for path in tiny.glob("*.onnx")}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    measure([tiny / "dynamic.onnx", tiny / "unknown.onnx"], HERE, batch=1, img=32, rounds=2)
    measure([tiny / "dynamic.onnx"], HERE, batch=3, img=64, rounds=2)
    assert {path: path.read_bytes() for path in tiny.glob("*.onnx")} == before
    assert not list(tmp_path.iterdir())


@needs_engine
def test_a_model_that_an_engine_cannot_run_is_a_row_with_its_error(tiny):
    output = bench(tiny, "static.onnx", "unknown.onnx", "deeper.onnx", "--rounds", 2, "--json", "some.json")
    rows = json.loads((tiny / "some.json").read_text())["rows"]
    for static, unknown, deeper in zip(rows[::3], rows[1::3], rows[2::3]):
        assert "Magic" in unknown["error"]
        assert unknown["milliseconds"] is unknown["images_per_second"] is unknown["ratio"] is None
        assert static["ratio"] == 1.0 and deeper["ratio"] > 0
        assert f"{ENGINES[unknown['engine']].title} cannot run unknown.onnx: " in output


@needs_engine
def test_where_nothing_could_be_measured_the_exit_status_is_1(tiny):
    assert "failed" in bench(tiny, "unknown.onnx", status=1)


@needs_engine
def test_without_a_first_time_there_is_no_ratio(tiny):
    broken, fine = measure([tiny / "unknown.onnx", tiny / "static.onnx"], HERE[:1], rounds=2)
    assert broken.error and fine.milliseconds and fine.ratio is None


@needs_engine
def test_an_engine_that_ends_its_process_costs_one_row(tiny, tmp_path, monkeypatch):
    """A module that stands for a crashing engine: as DeepSparse does, it complains and aborts."""
    (tmp_path / f"{ENGINES[HERE[0]].module}.py").write_text(
        "import os, sys\nprint('banner')\nprint('Assertion at swish.hpp:47', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (row,) = measure([tiny / "static.onnx"], HERE[:1], rounds=2)
    assert row.milliseconds is None
    assert row.error == f"the engine ended its process (status {-signal.SIGABRT}): Assertion at swish.hpp:47"


@needs_engine
def test_a_fixed_shape_is_said_in_plain_words(tiny):
    message = refused(tiny, "static.onnx", "--batch", 4)
    assert "static.onnx with --batch 4: this model always takes 1 image(s) at once" in message
    assert "--dynamic or --batch-size 4" in message
    message = refused(tiny, "static.onnx", "--img", 320)
    assert "images of 32 x 32 pixels" in message and "--dynamic or --imgsz 320" in message


@needs_engine
def test_files_that_are_no_models(tiny):
    (tiny / "best.pt").write_bytes(b"PK\x03\x04")
    (tiny / "garbage.onnx").write_bytes(b"\xff not a model")
    (tiny / "empty.onnx").write_bytes(b"")
    (tiny / "cut.onnx").write_bytes((tiny / "static.onnx").read_bytes()[:200])
    assert "there is no such file" in refused(tiny, "static.onnx", "missing.onnx")
    assert "this is a directory" in refused(tiny, "exp")
    assert "Export it first: yolov5 export --weights best.pt --include onnx" in refused(tiny, "best.pt")
    for name in ("garbage", "cut"):
        assert "this is not an ONNX file" in refused(tiny, f"{name}.onnx")
    assert "there is no model in this ONNX file" in refused(tiny, "empty.onnx")


@needs_engine
def test_a_model_of_something_else_than_images_is_refused(tmp_path):
    write_model(tmp_path / "three.onnx", shape=(3, 32, 32))
    write_model(tmp_path / "ints.onnx", dtype=TensorProto.INT64)
    with pytest.raises(BenchError, match="needs a model with one input"):
        measure([tmp_path / "three.onnx"], HERE[:1])
    with pytest.raises(BenchError, match="'images' is int64"):
        measure([tmp_path / "ints.onnx"], HERE[:1])


@needs_engine
def test_numbers_and_places_are_checked_before_anything_is_measured(tiny):
    for word, value in (("--batch", 0), ("--threads", -1), ("--rounds", 0), ("--img", 8)):
        assert f"{word} {value}: needs a whole number of at least" in refused(tiny, "static.onnx", word, value)
    assert "this process may run on" in refused(tiny, "static.onnx", "--threads", 100000)
    assert "there is no folder" in refused(tiny, "static.onnx", "--json", "nowhere/x.json")


def test_an_unknown_engine_names_the_nearest(tiny):
    message = refused(tiny, "static.onnx", "--engine", "onnx-runtime")
    assert "there is no such engine. Did you mean 'onnxruntime'?" in message


def test_a_missing_engine_asked_for_by_name_names_its_pip_command(tiny):
    if not ABSENT:
        pytest.skip("every engine is installed here: none is missing")
    message = refused(tiny, "static.onnx", "--engine", ",".join(ENGINES))
    assert f"{ENGINES[ABSENT[0]].title} is not installed here. Bring it with: {ENGINES[ABSENT[0]].pip}" in message


@needs_engine
@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group, as a terminal does")
def test_ctrl_c_exits_130_and_leaves_no_process(tiny):
    running = subprocess.Popen(
        [command("yolov5-sparse"), "bench", "static.onnx", "--rounds", "100000000", "--engine", HERE[0]],
        cwd=tiny,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not psutil.Process(running.pid).children():  # until it measures
            assert running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, said
    assert "yolov5-sparse: interrupted" in said and "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def test_help_teaches_with_examples(tmp_path):
    output = bench(tmp_path, "--help")
    assert "yolov5-sparse bench dense.onnx pruned_quantized.onnx" in output
    for flag in ("--engine", "--batch", "--threads", "--img", "--rounds", "--json"):
        assert flag in output


def test_the_telling_line_of_an_engines_error():
    openvino = (
        "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'false' failed at src/report.cpp:151:\n"
        "FrontEnd API failed with OpConversionFailure:\nModel wasn't fully converted.\n"
        "Summary:\n-- No conversion rule found for: Magic-13\n"
    )
    assert child.telling_line(openvino) == "No conversion rule found for: Magic-13"
    detailed = (
        "-- Conv-13 with a message:\nWhile validating node 'Conv_4':\nData batch channel count (4) does not match.\n"
    )
    assert child.telling_line(openvino.partition("Summary")[0] + detailed) == (
        "Data batch channel count (4) does not match."
    )
    assert child.telling_line("NM: error: bad node\nmore") == "NM: error: bad node"
    assert child.telling_line("Summary:\n") == "Summary:"
    assert child.telling_line("") == ""


def test_models_are_told_apart_by_the_end_of_their_paths(tmp_path):
    one, two = tmp_path / "exp" / "weights" / "best.onnx", tmp_path / "exp2" / "weights" / "best.onnx"
    assert table.labels([one, one]) == {one: "best.onnx"}
    assert list(table.labels([one, two]).values()) == ["exp/weights/best.onnx", "exp2/weights/best.onnx"]


def cpuinfo(name, flags, cores, threads_per_core=1):
    """Return a text as in /proc/cpuinfo; hyper-threads are numbered after all the first ones, as Linux does."""
    return "\n".join(
        f"processor\t: {i}\nmodel name\t: {name}\nphysical id\t: 0\nsiblings\t: {cores * threads_per_core}\n"
        f"core id\t\t: {i % cores}\ncpu cores\t: {cores}\nfpu\t\t: yes\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n"
        for i in range(cores * threads_per_core)
    )


BASE = "fpu vme de pse tsc msr sse sse2 ht syscall nx lm pni ssse3 fma cx16 sse4_1 sse4_2 popcnt aes xsave avx f16c"
AVX512 = f"{BASE} avx2 bmi2 avx512f avx512dq avx512cd avx512bw avx512vl"
CPUS = {
    "Cascade Lake": cpuinfo("Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz", f"{AVX512} avx512_vnni", 4, 2),
    "Sapphire Rapids": cpuinfo(
        "Intel(R) Xeon(R) Platinum 8488C", f"{AVX512} avx_vnni avx512_vnni amx_bf16 amx_tile amx_int8", 2, 2
    ),
    "Alder Lake": cpuinfo("12th Gen Intel(R) Core(TM) i7-12700", f"{BASE} avx2 avx_vnni", 8, 2),
    "Skylake": cpuinfo("Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", AVX512, 2, 2),
    "Zen 2": cpuinfo("AMD EPYC 7R32", f"{BASE} avx2 sha_ni clzero", 2, 2),
    "Zen 4": cpuinfo("AMD EPYC 9R14", f"{AVX512} avx512_bf16 avx512_vbmi avx512_vnni", 2),
    "Ivy Bridge": cpuinfo("Intel(R) Xeon(R) CPU E5-2680 v2 @ 2.80GHz", BASE, 2, 2),
}


@pytest.mark.parametrize(
    "name, cores, flags, advised",
    [
        ("Cascade Lake", 4, {"avx2", "avx512f", "avx512_vnni"}, "(avx512_vnni): deploy the pruned-quantized model"),
        (
            "Sapphire Rapids",
            2,
            {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"},
            "(avx_vnni, avx512_vnni, amx_int8): deploy the pruned-quantized model",
        ),
        ("Alder Lake", 8, {"avx2", "avx_vnni"}, "(avx_vnni): deploy the pruned-quantized model"),
        ("Skylake", 2, {"avx2", "avx512f"}, "AVX2 but no VNNI"),
        ("Zen 2", 2, {"avx2"}, "AVX2 but no VNNI"),
        ("Zen 4", 2, {"avx2", "avx512f", "avx512_vnni"}, "(avx512_vnni): deploy the pruned-quantized model"),
        ("Ivy Bridge", 2, set(), "neither AVX2 nor VNNI"),
    ],
)
def test_what_a_cpu_has_decides_the_advice(name, cores, flags, advised):
    features = cpu.parse(CPUS[name], range(64))
    assert features.name in CPUS[name]
    assert features.cores == cores
    assert features.flags == flags
    assert advised in cpu.advice(features)
    assert "yolov5-sparse bench" in cpu.advice(features)


def test_hyper_threads_and_forbidden_cpus_are_no_cores():
    assert cpu.parse(CPUS["Cascade Lake"], {0, 4}).cores == 1  # two threads of one core
    assert cpu.parse(CPUS["Cascade Lake"], {0, 1, 5}).cores == 2
    assert cpu.parse(CPUS["Zen 4"], {1}).cores == 1


def test_a_system_that_says_nothing_is_unknown_not_absent():
    arm = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor\t: 1\nFeatures\t: fp\n"
    for text in (arm, ""):
        features = cpu.parse(text, {0, 1})
        assert features.cores == 2 and features.flags is None and features.has("avx2") is None
        assert "avx2 unknown" in str(features)
        assert "is not known here" in cpu.advice(features)


def test_status_names_cpu_engines_and_advice(tmp_path):
    output = call([command("yolov5-sparse"), "status"], tmp_path).output
    assert f"CPU: {cpu.detect()}" in output and cpu.advice(cpu.detect()) in output
    for name, engine in ENGINES.items():
        assert f"{engine.title:12} {engine.version() if name in HERE else f'not installed: {engine.pip}'}" in output
