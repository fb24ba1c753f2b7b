"""Forked commands are as good as started ones: exit status, output, folder, environment, and an end."""

from __future__ import annotations

import subprocess
import sys

import pytest
import warm
from conftest import clean_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("WARM_PRELOADED", "json")
    found = warm.Warm(clean_environment())
    yield found
    found.close()


@pytest.fixture
def run(server, tmp_path):
    def run(code, timeout=60, **env):
        (tmp_path / "script").write_text(code)
        words = [str(tmp_path / "script"), "--word"]
        status = server.run(words, tmp_path, clean_environment(**env), tmp_path / "output", timeout)
        return status, (tmp_path / "output").read_text()

    return run


def test_status_output_folder_words_and_environment_are_the_commands_own(run, tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.argv[1], os.environ['OWN'], flush=True); sys.exit('because')"
    assert run(code, OWN="mine") == (1, f"{tmp_path} --word mine\nbecause\n")
    assert run("import atexit; atexit.register(print, 'end'); print('out')") == (0, "out\nend\n")
    assert run("import os; os.kill(os.getpid(), 9)")[0] == -9
    assert "ZeroDivisionError" in run("1 / 0")[1]


def test_after_a_command_that_does_not_end_nothing_is_forked_and_nothing_goes_on(run, server, tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        run("import time; time.sleep(2); open('late', 'w')", timeout=0.5)
    assert not server.serves(clean_environment())
    with pytest.raises(Exception):  # noqa: B017
        run("print(1)")
    assert not (tmp_path / "late").exists()


def test_what_python_reads_at_its_start_is_not_served(server):
    assert server.serves(clean_environment(YOLOV5_SPARSE_ENGINE="native"))
    assert not server.serves(clean_environment(PYTHONPATH="."))
    assert not server.serves(clean_environment(YOLOV5_SPARSE_AUTOLOAD="0"))


def test_libraries_that_tests_import_change_nothing_of_it(server):
    import cv2  # noqa: F401  sets LD_LIBRARY_PATH in its process

    assert server.serves(clean_environment())
