"""Two processes that train together with gloo: equal in all that counts, and one of them writes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Result, clean_environment, hyperparameters, train_words
from zoo_server import STUB, Flaky, serving

from yolov5_sparse_plugin.checkpoints import reading

pytestmark = pytest.mark.long  # two processes each
# writes down what a rank is like, and dies where it is told to
RECORDING = """
import hashlib, json, os, signal
from yolov5_sparse_plugin import hookimpl

def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().clone().numpy().tobytes() for t in tensors)).hexdigest()

@hookimpl(trylast=True)
def sparse_batch_start(run, epoch):
    quantizers = [b for m in run.model.modules() if hasattr(m, "fake_quant_enabled") for b in m.buffers()]
    record = {
        "clock": epoch, "phase": run.phase, "sparsity": run.sparsity(),
        "quantizers": [len(quantizers), digest(quantizers)],
        "masks": digest(run.masks().values()), "parameters": digest(run.model.parameters()),
        "rates": [group["lr"] for group in run.optimizer.wrapped.param_groups],
        "batches": run.optimizer._wrapper.wrapped_steps_per_epoch,
    }
    with open(f"rank{os.environ['RANK']}.jsonl", "a") as file:
        file.write(json.dumps(record) + "\\n")
    if epoch == float(os.environ.get("DIES_AT", "nan")):
        os.kill(os.getpid(), signal.SIGKILL)
"""
RANKS = (0, 1)


def together(cwd: Path, *words, status: int = 0, **env: str) -> list[str]:
    """Run two ranks; return what they printed. Both must end with `status`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **env}
    script = Path(__file__).with_name("ranks.py")
    started = []
    for rank in RANKS:
        output = (cwd / f"rank{rank}.txt").open("w+")
        command = [str(word) for word in (sys.executable, script, cwd / f"written{rank}.json", *words)]
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment = clean_environment(**env, **numbers)
        started.append((subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output), output))
    printed = []
    try:
        for process, output in started:
            ended = process.wait(timeout=300)
            output.seek(0)
            printed.append(output.read())
            assert ended == status, printed[-1][-4000:]
    finally:
        for process, output in started:
            process.kill()
            output.close()
    return printed


def words_for(data: Path, *more, weights="") -> list:
    return train_words(data, "--hyp", hyperparameters(), *more, weights=weights)[1:]


def records(folder: Path) -> list[list[dict]]:
    return [[json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()] for rank in RANKS]


@pytest.fixture(scope="session")
def two(once, shapes, recipe, finished):
    """A run of two ranks with a teacher, killed inside quantization and resumed."""

    def run(cwd: Path) -> Result:
        (cwd / "recording.py").write_text(RECORDING)
        teacher = finished.weights / "best_dense.pt"
        words = ["--sparse-recipe", recipe, "--sparse-teacher", teacher, "--sparse-hooks", "recording.py"]
        words += ["--sparse-qat-batch-size", 2]  # of the four that each rank has in a batch
        printed = together(cwd, *words_for(shapes, *words), status=-9, DIES_AT="4.5")
        for rank in RANKS:
            (cwd / f"written{rank}.json").unlink(missing_ok=True)
        last = cwd / "runs" / "exp" / "weights" / "last.pt"
        printed += together(cwd, "--resume", last, "--sparse-hooks", "recording.py")
        return Result(0, "\n".join(printed), cwd / "runs" / "exp")

    return once("two_ranks", run)


def test_ranks_have_the_same_masks_clock_phase_rates_and_quantizers_at_every_batch(two):
    first, second = records(two.folder.parent.parent)
    assert first == second
    assert first[0]["batches"] == 4, "each rank has half of the data"
    assert [record["clock"] for record in first] == [n / 4 for n in [*range(19), *range(16, 20)]]


def test_two_ranks_prune_quantize_and_go_on_where_they_were_killed(two):
    record = records(two.folder.parent.parent)[0]
    phases = [r["phase"] for r in record[::4]]
    assert phases[:5] == ["dense", "dense", "pruned", "pruned", "pruned_quantized"]
    assert all(r["sparsity"] == pytest.approx(0.6, abs=1e-3) for r in record if r["phase"] != "dense")
    before, resumed = record[16], record[19]
    assert before == resumed, "the first batch of the epoch that was cut off begins as it did then"
    part = reading.read(two.weights / "best.pt")["sparse"]
    assert part["phase"] == "pruned_quantized" and part["sparsity"] == pytest.approx(0.6, abs=1e-3)


def test_only_the_first_rank_writes(two):
    cwd = two.folder.parent.parent
    wrote = [{Path(path) for path in json.loads((cwd / f"written{rank}.json").read_text())} for rank in RANKS]
    inside = [
        {path.relative_to(two.folder).as_posix() for path in paths if two.folder in path.parents} for paths in wrote
    ]
    assert any(name.startswith("weights/") for name in inside[0]) and "results.csv" in inside[0]
    assert inside[1] <= {"hyp.yaml", "opt.yaml"}, "upstream's own train() writes these two on every rank"


def test_two_ranks_fetch_a_stub_once_and_both_train_from_it(packed, shapes, tmp_path):
    (tmp_path / "recording.py").write_text(RECORDING)
    with serving(Flaky, packed.folder) as (address, handler):
        words = ["--sparse-recipe", f"{STUB}?recipe_type=transfer", "--sparse-hooks", "recording.py"]
        words += ["--sparse-recipe-args", "num_epochs=1,warmup_epochs=0.25,quantization_start_epoch=0.5"]
        words += ["--sparse-zoo-mirror", address]
        together(
            tmp_path,
            *words_for(shapes, *words, weights=f"{STUB}?recipe_type=transfer"),
            SPARSEZOO_MODELS_PATH=str(tmp_path / "cache"),
        )
    first, second = records(tmp_path)
    assert first == second and first[0]["sparsity"] == pytest.approx(0.6, abs=1e-3)
    fetched = [path for path, _ in handler.requests if path != "/index.json"]
    assert len(fetched) == len(set(fetched)) == 2, "weights and recipe"
