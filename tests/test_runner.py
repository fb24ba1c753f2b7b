"""The runner starts a script as Python does: a script that reports what it sees says the same under both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import call, clean_environment, command

# what a program can see of how it was started, and a worker that was spawned of it
REPORT = """\
# -*- coding: latin-1 -*-
"\xe4"
from __future__ import annotations
import json, multiprocessing, sys
counted: int = 3

def seen():
    main = sys.modules["__main__"]
    loader = main.__dict__["__loader__"]
    return {
        "name": __name__, "doc": __doc__, "package": __package__, "file": __file__, "cached": __cached__,
        "spec": repr(__spec__), "loader": [type(loader).__name__, loader.name, loader.path], "argv": sys.argv,
        "path": sys.path, "builtins": repr(__builtins__), "annotations": __annotations__,
        "main": main.__dict__ is globals(), "attributes": sorted(n for n in globals() if n.startswith("__")),
        "code": [seen.__code__.co_filename, seen.__code__.co_firstlineno], "module": seen.__module__,
    }

def work(queue):
    queue.put({"name": __name__, "file": __file__, "argv": sys.argv, "main": sys.modules["__main__"].__name__})

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(queue,))
    child.start()
    print("REPORT" + json.dumps([seen(), queue.get(timeout=60)]))
    child.join()
"""
RUNNERS = {
    "module": [sys.executable, "-m", "yolov5_sparse_plugin"],
    "command": [command("yolov5-sparse"), "run"],
}


@pytest.fixture(params=RUNNERS, scope="module")
def runner(request):
    return RUNNERS[request.param]


def report(words, cwd):
    return json.loads(next(line for line in call(words, cwd).output.splitlines() if line.startswith("REPORT"))[6:])


# what makes a folder a checkout of YOLOv5, and a script one that is attached to
MARKS = ("hubconf.py", "models/yolo.py", "utils/general.py")
DOORS = "parse_opt = run = train = main = check_yaml = print\n"


def make_checkout(folder, script):
    for mark in MARKS:
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()
    (folder / "train.py").write_text(script, encoding="latin-1")


@pytest.mark.parametrize(
    "script", ["script.py", "folder/script.py", "./folder/../script.py", "link.py", "checkout/train.py"]
)
def test_a_script_sees_what_python_would_show_it(tmp_path, runner, script):
    (tmp_path / "folder").mkdir()
    for file in ("script.py", "folder/script.py"):
        (tmp_path / file).write_bytes(REPORT.encode("latin-1"))
    make_checkout(tmp_path / "checkout", REPORT.replace("def seen", f"{DOORS}def seen"))
    (tmp_path / "link.py").symlink_to("folder/script.py")
    words = [script, "--help", "-m", "--sparse-recipe=x", "a b"]
    expected, spawned = report([sys.executable, *words], tmp_path)
    assert expected["argv"] == words and expected["path"][0] and spawned["name"] == "__mp_main__"
    assert report([*runner, *words], tmp_path) == [expected, spawned]


ENDINGS = {
    "the end": "print('done')",
    "a status": "import sys; sys.exit(3)",
    "a message": "import sys; sys.exit('no luck')",
    "an exception": "def f():\n    raise ValueError('as intended')\n\n\nf()",
    "two exceptions": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('key') from error",
    "no syntax": "print('never')\nif x\n    pass",
    "a hook of its own": "import sys\nsys.excepthook = lambda *e: print('hook', e[0].__name__, e[2].tb_lineno)\n1 / 0",
    "an interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nimport time\ntime.sleep(9)",
    "atexit": "import atexit\natexit.register(print, 'last words')\nraise RuntimeError('first')",
}


def end(words, cwd):
    done = subprocess.run(words, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("how", ENDINGS)
def test_a_script_ends_as_under_python(tmp_path, runner, how):
    """The same exit status, output and traceback, without a line of ours."""
    (tmp_path / "script.py").write_text(ENDINGS[how] + "\n")
    expected = end([sys.executable, "script.py"], tmp_path)
    assert expected[0] == {"the end": 0, "a status": 3, "an interrupt": -signal.SIGINT, "a signal": -15}.get(how, 1)
    found = end([*runner, "script.py"], tmp_path)
    assert found == expected


def test_what_is_raised_below_the_guard_of_a_checkouts_script_keeps_its_line(tmp_path, runner):
    code = f"""from __future__ import annotations
{DOORS}

def begin(x: nothing_of_this_name):
    raise ValueError(begin.__annotations__, train.__module__)


if __name__ == "__main__":
    def inner(y: nor_of_this) -> None: ...
    print(inner.__annotations__)
    begin(1)
"""
    make_checkout(tmp_path, code)
    expected = end([sys.executable, "train.py"], tmp_path)
    assert expected[0] == 1 and "line 12, in <module>" in expected[2] and "nor_of_this" in expected[1]
    assert end([*runner, "train.py"], tmp_path) == expected


def test_every_process_of_torchrun_gets_the_script_with_its_rank(tmp_path):
    code = "import os, sys, json\nseen = json.dumps([__name__, sys.argv, sys.path[0]])\n"
    code += "os.write(1, f'RANK {os.environ[\"RANK\"]} {seen}\\n'.encode())\n"  # whole lines: both write to one pipe
    (tmp_path / "script.py").write_text(code)
    words = [
        command("torchrun"),
        "--standalone",
        "--nproc_per_node",
        2,
        "-m",
        "yolov5_sparse_plugin",
        "script.py",
        "-x",
    ]
    lines = [line for line in call(words, tmp_path).output.splitlines() if line.startswith("RANK")]
    seen = json.dumps(["__main__", ["script.py", "-x"], os.path.realpath(tmp_path)])
    assert sorted(lines) == [f"RANK {rank} {seen}" for rank in (0, 1)]


def test_nothing_of_the_plugin_is_imported_for_a_script_that_is_not_yolov5s(tmp_path):
    (tmp_path / "train.py").write_text(
        "import sys\nprint([m for m in ('torch', 'sparseml', 'yolov5') if m in sys.modules])"
    )
    assert call([*RUNNERS["module"], "train.py"], tmp_path).output.splitlines()[-1] == "[]"


def test_a_script_that_is_not_there(tmp_path, runner):
    message = call([*runner, "tarin.py"], tmp_path, status=2).output
    assert "yolov5-sparse: error: run tarin.py: cannot be read (No such file or directory). Name a script" in message
    assert "Traceback" not in message


def test_no_script_gets_the_usage(tmp_path, runner):
    assert "usage: python -m yolov5_sparse_plugin SCRIPT" in call(runner, tmp_path, status=2).output
    assert "torchrun" in call([*RUNNERS["module"], "--help"], tmp_path).output
