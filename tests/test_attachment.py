"""The plugin attaches wherever Python imports YOLOv5, costs others nothing, and comes off again."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import TRUST, call, command, train_words, yolov5_train

from yolov5_sparse_plugin.checkpoints import reading

PROBE = "import yolov5.train as t; print('ATTACHED', hasattr(t.train, '__yolov5_sparse_original__'))"


def run_python(words, cwd, **kwargs):
    return call([sys.executable, *words], cwd, **kwargs)


def test_attaches_in_python_c(tmp_path):
    assert "ATTACHED True" in run_python(["-c", PROBE], tmp_path).output


def test_attaches_in_a_plain_script(tmp_path):
    (tmp_path / "script.py").write_text(PROBE)
    assert "ATTACHED True" in run_python(["script.py"], tmp_path).output


def test_attaches_in_pytest():
    import yolov5.train

    assert hasattr(yolov5.train.train, "__yolov5_sparse_original__")


def test_attaches_in_a_notebook_kernel(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="no notebook packages: pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROBE)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    done = nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
    text = "".join(o.get("text", "") for o in done.cells[0].outputs)
    assert "ATTACHED True" in text


def test_the_off_switch_leaves_no_trace(tmp_path):
    run = run_python(
        ["-c", PROBE + "; import sys; print([m for m in sys.modules if 'sparse' in m])"],
        tmp_path,
        YOLOV5_SPARSE_AUTOLOAD="0",
    )
    assert "ATTACHED False" in run.output
    assert "yolov5_sparse_plugin.hosts" not in run.output and "sparseml" not in run.output


def test_unrelated_programs_import_nothing_but_startup(tmp_path):
    code = "import sys; print(sorted(m for m in sys.modules if 'yolov5' in m or m in ('pluggy', 'yaml', 'torch')))"
    run = run_python(["-c", code], tmp_path)
    names = run.output.splitlines()[-1]
    kept = [n for n in eval(names) if not n.startswith("__editable__")]
    assert [n for n in kept if "_finder" not in n] == ["yolov5_sparse_plugin", "yolov5_sparse_plugin.startup"]


def test_installing_twice_is_once(tmp_path):
    code = """
        import sys
        from yolov5_sparse_plugin import startup
        startup.install(); startup.install()
        print([type(f).__name__ for f in sys.meta_path].count("AttachingFinder"))
        import yolov5.train as t
        from yolov5_sparse_plugin.attach.modules import attach_module
        before = t.train; attach_module(t); print(t.train is before)
    """
    lines = run_python(["-c", textwrap.dedent(code)], tmp_path).output.splitlines()
    assert "1" in lines and lines[-1] == "True"


def test_modules_keep_their_own_loader_and_source(tmp_path):
    code = "import inspect, yolov5.train as t; print(type(t.__loader__).__name__, 'def train(' in inspect.getsource(t))"
    assert "SourceFileLoader True" in run_python(["-c", code], tmp_path).output


def test_detach_restores_every_doorway(tmp_path):
    code = """
        import yolov5.train as t, yolov5.models.experimental as e, yolov5.models.common as c
        from yolov5_sparse_plugin.attach import modules as p
        ours = lambda: [hasattr(f, "__yolov5_sparse_original__") for f in
                        (t.train, t.run, t.run_cli, t.parse_opt, e.attempt_load, c.DetectMultiBackend.__init__)]
        print("BEFORE", all(ours())); p.detach(); print("AFTER", any(ours())); p.attach(); print("AGAIN", all(ours()))
    """
    output = run_python(["-c", textwrap.dedent(code)], tmp_path).output
    assert "BEFORE True" in output and "AFTER False" in output and "AGAIN True" in output


@pytest.mark.long
def test_two_runs_in_one_process_do_not_disturb_each_other(tmp_path, shapes, prune_two):
    """Sparse, plain, sparse: the globals inside train() are upstream's own in and after each, callbacks are gone."""
    code = f"""
        import json, sys
        import yolov5.train as t
        upstream = t.train.__yolov5_sparse_original__
        names = [n for n in vars(t) if not n.startswith("__")]
        before = {{n: vars(t)[n] for n in names}}
        seen = []
        def look(tag): seen.append([tag, [n for n in names if vars(t)[n] is not before[n]]])
        common = dict(data={str(shapes)!r}, weights="", cfg="yolov5n.yaml", imgsz=64, batch_size=16, device="cpu",
                      workers=0, noplots=True, noautoanchor=True, project="runs", exist_ok=True)
        actions = t.main.__yolov5_sparse_original__.__defaults__[0]._callbacks
        actions["on_train_start"].append(dict(name="spy", callback=lambda: look("inside")))
        t.run(name="a", sparse_recipe={str(prune_two)!r}, **common); look("after")
        t.run(name="b", epochs=1, **common); look("after")
        t.run(name="c", recipe={str(prune_two)!r}, **common); look("after")
        from pathlib import Path
        rows = [len(Path("runs", n, "results.csv").read_text().splitlines()) - 1 for n in "abc"]
        left = [a for hook in actions.values() for a in hook if a["name"] == "yolov5_sparse"]
        print("RESULT" + json.dumps([seen, len(left), rows]))
    """
    run = run_python(["-c", textwrap.dedent(code)], tmp_path, **TRUST)
    seen, left, rows = json.loads(next(line for line in run.output.splitlines() if line.startswith("RESULT"))[6:])
    assert left == 0
    assert rows[0] == 2 and rows[2] == 2  # upstream's own logger of the plain run goes on writing
    tags = [(tag, bool(changed)) for tag, changed in seen]
    assert tags == [
        ("inside", True),
        ("after", False),
        ("inside", False),
        ("after", False),
        ("inside", True),
        ("after", False),
    ]
    for name in ("a", "c"):
        part = reading.read(tmp_path / "runs" / name / "weights" / "last.pt")["sparse"]
        assert part["sparsity"] == pytest.approx(0.7, abs=1e-4)
    assert not reading.is_sparse(tmp_path / "runs" / "b" / "weights" / "last.pt")


def test_python_m_yolov5_train_is_served(tmp_path, shapes, prune_two):
    words = train_words(shapes, "--sparse-recipe", prune_two)
    run = run_python(["-m", "yolov5.train", *words[1:]], tmp_path)
    assert reading.read(run.weights / "last.pt")["sparse"]["sparsity"] == pytest.approx(0.7, abs=1e-4)


def test_a_plain_run_has_the_numbers_of_one_without_the_plugin(tmp_path, shapes, plain):
    """Same losses and metrics to the last digit that upstream writes down."""
    other = yolov5_train(tmp_path, shapes, "--epochs", 2, env={"YOLOV5_SPARSE_AUTOLOAD": "0", **TRUST})
    assert (other.folder / "results.csv").read_text() == (plain.folder / "results.csv").read_text()


def test_status_names_hooks_doorways_and_the_off_switch(tmp_path):
    output = call([command("yolov5-sparse"), "status"], tmp_path).output
    sparseml = "1.8" if sys.version_info < (3, 12) else "not installed"
    for word in ("sparse_training", "yolov5.train.train", "YOLOV5_SPARSE_AUTOLOAD=0", f"sparseml     {sparseml}"):
        assert word in output
    off = call([command("yolov5-sparse"), "status"], tmp_path, YOLOV5_SPARSE_AUTOLOAD="0").output
    assert "autoload: off, because YOLOV5_SPARSE_AUTOLOAD=0 is set" in off and "yolov5.train.train" not in off


def test_startup_is_short_and_standard_library_only():
    from yolov5_sparse_plugin import startup

    text = Path(startup.__file__).read_text()
    assert len(text.splitlines()) < 80
    top = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert top == ["import os", "import sys"]


def test_help_builds_no_model(tmp_path):
    done = subprocess.run([command("yolov5-sparse"), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "examples:" in done.stdout


def test_who_asks_for_warnings_gets_them(tmp_path):
    code = "import warnings, yolov5.train; warnings.warn('`torch.cuda.amp.autocast(args...)` is old', FutureWarning)"
    assert "torch.cuda.amp" not in run_python(["-c", code], tmp_path).output
    assert "torch.cuda.amp" in run_python(["-W", "always::FutureWarning", "-c", code], tmp_path).output
