"""Kill a training run again and again, resume it each time, and compare it with a run that nobody touched.

    python tests/stress/kill_and_resume.py [--kills 20] [--seed 0] [--keep FOLDER]

Six epochs of a shipped recipe on 32 pictures of 64 px, through the real `yolov5 train`: dense, pruned from 1 to 3,
quantized from 4. Processes get SIGKILL at random moments, spread over all phases; every fourth while a checkpoint is
being written. After each kill every checkpoint must be readable and none may have gone; what `--resume` restores must
equal, bit for bit, what the last complete checkpoint was made of; and at every epoch boundary the run must be where the
untouched one was: weights, learning rate, clock, phase, sparsity. Prints a line a kill; exits with 1 where something
does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPOCHS, BATCHES = 6, 4
RECIPE = "pruned_quantized"  # learning rates, pruning steps that fall between epochs, quantization
VARIABLES = "num_epochs=6,warmup_epochs=1,pruning_start_epoch=1,pruning_end_epoch=3,quantization_start_epoch=4"
# writes down a run's state: when a batch starts, when a checkpoint is being packed, when an epoch is over
RECORDING = """
import hashlib, json, torch
from yolov5_sparse_plugin import hookimpl

def digest(named):
    total = hashlib.sha256()
    for name, tensor in named:
        total.update(name.encode() + tensor.detach().clone().numpy().tobytes())
    return total.hexdigest()

def momentum(run):
    groups = run.optimizer.wrapped.param_groups
    state = run.optimizer.wrapped.state
    return ((f"{i}.{j}.{k}", v) for i, g in enumerate(groups) for j, p in enumerate(g["params"])
            for k, v in sorted(state[p].items()) if torch.is_tensor(v))

def write(run, kind):
    record = {
        "kind": kind, "clock": run.optimizer.epoch, "completed": run.completed, "phase": run.phase,
        "sparsity": run.sparsity(), "model": digest(run.model.state_dict().items()),
        "masks": digest(run.masks().items()), "momentum": digest(momentum(run)),
        "ema": digest(run.ema.ema.state_dict().items()), "updates": run.ema.updates,
        "rates": [group["lr"] for group in run.optimizer.wrapped.param_groups],
    }
    with open("records.jsonl", "a") as file:
        file.write(json.dumps(record) + "\\n")

@hookimpl(trylast=True)
def sparse_batch_start(run, epoch):
    write(run, "batch")

@hookimpl(trylast=True)
def sparse_epoch_end(run, epoch):
    write(run, "epoch")

@hookimpl(trylast=True)
def sparse_pack(run, ckpt):
    write(run, "pack")
"""
RESTORED = ("completed", "phase", "sparsity", "model", "masks", "ema", "updates", "momentum")
FOLLOWED = ("clock", "completed", "phase", "sparsity", "rates", "model", "masks", "ema", "updates", "momentum")


class Broken(AssertionError):
    """Something that the plugin promises did not hold."""


class Run:
    """One training run in a folder of its own, in as many processes as it takes."""

    def __init__(self, folder: Path, data: Path, env: dict[str, str]):
        folder.mkdir()
        (folder / "recording.py").write_text(RECORDING)
        self.folder, self.data, self.env = folder, data, env
        self.weights = folder / "runs" / "exp" / "weights"

    def start(self) -> subprocess.Popen:
        """Start or resume the run."""
        yolov5 = Path(sys.executable).with_name("yolov5")
        if (self.weights / "last.pt").exists():
            words = ["--resume", self.weights / "last.pt", "--sparse-hooks", "recording.py"]
        else:
            words = ["--data", self.data, "--weights", "", "--cfg", "yolov5n.yaml", "--img", 64, "--batch-size", 8]
            words += ["--device", "cpu", "--workers", 0, "--noplots", "--noautoanchor", "--project", "runs"]
            words += ["--name", "exp", "--exist-ok", "--gradient-accum-steps", 1, "--patience", 0]
            words += ["--sparse-recipe", RECIPE, "--sparse-recipe-args", VARIABLES, "--sparse-hooks", "recording.py"]
        with (self.folder / "output.txt").open("a") as output:
            command = [str(word) for word in (yolov5, "train", *words)]
            return subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=output, stderr=output)

    def records(self) -> list[dict]:
        file = self.folder / "records.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def half_written(self) -> set[str]:
        return {file.name for file in self.weights.glob(".*.tmp")}

    def output(self) -> str:
        return (self.folder / "output.txt").read_text().replace("\r", "\n")[-3000:]

    def checkpoints(self) -> dict[str, int]:
        """Read every checkpoint with the plugin; return their names and the epochs that they hold."""
        from yolov5_sparse_plugin.checkpoints import reading

        found = {}
        for file in sorted(self.weights.glob("*.pt")):
            try:
                found[file.name] = int(reading.read(file)["sparse"]["epoch"])
            except Exception as error:  # whatever a damaged file makes of itself
                raise Broken(f"{file.name} cannot be read: {type(error).__name__}: {error}") from error
        return found


def kill(run: Run, moment: float, writing: bool, chance: random.Random) -> str:
    """Start the run; kill it about when its clock says `moment`, or while it next writes a checkpoint after that."""
    process, seen, left = run.start(), len(run.records()), run.half_written()
    while process.poll() is None:
        if any(r["kind"] == "batch" and r["clock"] >= moment for r in run.records()[seen:]):
            break
        time.sleep(0.002)
    if writing:
        while process.poll() is None and not run.half_written() - left:
            pass
        time.sleep(chance.uniform(0, 0.02))
    else:
        time.sleep(chance.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    if process.wait() not in (0, -signal.SIGKILL):
        raise Broken(f"the run ended by itself with status {process.returncode}:\n{run.output()}")
    if process.returncode == 0:
        return "it had ended"
    last = run.records()[-1]
    half = [name.split(".")[1] + ".pt" for name in run.half_written() - left]
    doing = f"writing {half[0]}" if half else f"after {last['kind']}"
    return f"clock {last['clock']:.2f} {last['phase']:16} {doing}"


def check_restored(before: list[dict], after: list[dict], kept: dict[str, int]) -> None:
    """Compare a resumed process's first batch with what its checkpoint was packed from."""
    first = next((record for record in after if record["kind"] == "batch"), None)
    if first is None or "last.pt" not in kept:
        return
    packed = [r for r in before if r["kind"] == "pack" and r["completed"] == kept["last.pt"]]
    different = [name for name in RESTORED if first[name] != packed[-1][name]]
    if different:
        raise Broken(f"resumed after {kept['last.pt']} epochs, and not restored: {', '.join(different)}")


def check_followed(straight: list[dict], found: list[dict]) -> int:
    """Compare epoch boundaries with those of the untouched run; return how many were compared."""
    wanted = {r["completed"]: r for r in straight if r["kind"] == "epoch"}
    compared = [r for r in found if r["kind"] == "epoch"]
    for record in compared:
        different = [name for name in FOLLOWED if record[name] != wanted[record["completed"]][name]]
        if different:
            raise Broken(f"after epoch {record['completed']} other than the untouched run: {', '.join(different)}")
    return len(compared)


def stress(folder: Path, data: Path, env: dict[str, str], kills: int, seed: int) -> int:
    """Return how many kills the run survived; raise Broken at the first that it did not."""
    chance = random.Random(seed)
    straight, tried = Run(folder / "straight", data, env), Run(folder / "killed", data, env)
    if straight.start().wait():
        raise Broken(f"the untouched run failed:\n{straight.output()}")
    print(f"untouched: {len(straight.records())} records, checkpoints {', '.join(straight.checkpoints())}", flush=True)
    moments = sorted(chance.uniform(0, EPOCHS - 0.3) for _ in range(kills))
    kept: dict[str, int] = {}
    survived = 0
    for number, moment in enumerate([*moments, None], 1):
        before = tried.records()
        if moment is None:
            how = "to the end"
            if tried.start().wait():
                raise Broken(f"the last part failed:\n{tried.output()}")
        else:
            how = kill(tried, moment, number % 4 == 0, chance)
        now = tried.records()
        check_restored(before, now[len(before) :], kept)
        lost = set(kept) - set(tried.checkpoints())
        if lost:
            raise Broken(f"gone: {', '.join(sorted(lost))}")
        kept = tried.checkpoints()
        compared = check_followed(straight.records(), now[len(before) :])
        survived += moment is not None
        print(
            f"{number:3}  {how:45} {compared} epochs as untouched; {', '.join(kept) or 'no checkpoint yet'}", flush=True
        )
        if how == "it had ended":
            break
    finished = [record for record in tried.records() if record["kind"] == "epoch"]
    if finished[-1]["completed"] != EPOCHS or finished[-1]["phase"] != "pruned_quantized":
        raise Broken(f"the run ended after {finished[-1]['completed']} epochs, {finished[-1]['phase']}")
    levels = [record["sparsity"] for record in finished]
    if levels != sorted(levels):
        raise Broken(f"sparsity fell: {levels}")
    if tried.half_written():
        raise Broken(f"left behind: {', '.join(tried.half_written())}")
    if set(straight.checkpoints()) != set(tried.checkpoints()):
        raise Broken(f"other checkpoints than the untouched run: {', '.join(tried.checkpoints())}")
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, help="folder for the runs; without it they are removed")
    arguments = parser.parse_args()
    from yolov5_sparse_plugin.demo import make_data, offline_environment

    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="yolov5-sparse-stress-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = make_data(folder / "shapes", size=64, counts=(8 * BATCHES, 16))
        env = {**offline_environment(folder), "OMP_NUM_THREADS": "1"}
        survived = stress(folder, data, env, arguments.kills, arguments.seed)
    except Broken as broken:
        sys.exit(f"BROKEN: {broken}")
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    print(f"{survived} kills survived")


if __name__ == "__main__":
    main()
