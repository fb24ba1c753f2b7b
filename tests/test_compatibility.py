"""Every option of `yolov5 train` that changes how a run goes, with a recipe that prunes and quantizes.

Each case runs the real `train()`, in this process, and the table in docs/compatibility.md says what it saw:

    pytest -n0 tests/test_compatibility.py --write-compatibility
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
import yaml
from conftest import RECIPE, REPOSITORY, Result, call, hyperparameters, results, yolov5_train, zeros

from yolov5_sparse_plugin.checkpoints import quantizers, reading
from yolov5_sparse_plugin.errors import SparsePluginError

PAGE = REPOSITORY / "docs" / "compatibility.md"
# two epochs: pruned to 60 % in the first, quantized in the second
TWO = RECIPE.replace("start_epoch: 1.0\n", "start_epoch: 0.0\n")
ARGS = {"num_epochs": 2, "pruning_end_epoch": 1.0, "quantization_start_epoch": 1.0}
HELD = (
    TWO[: TWO.index("  - !Magnitude")] + "  - !ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}\n"
)
HELD += TWO[TWO.index("  - !Quantization") :]
RATES = "  - !LearningRateFunctionModifier\n"
RATES += "      {start_epoch: 0.0, end_epoch: 2.0, lr_func: linear, init_lr: 0.004, final_lr: 0.0}\n"
# writes down what reaches the model, and with which sparsity it starts
OBSERVE = """
import json
from yolov5_sparse_plugin import hookimpl
@hookimpl
def sparse_model_built(run, model):
    run.shapes = []
    def note(module, inputs):
        if run.begun and module.training:
            run.shapes.append([int(side) for side in inputs[0].shape])
    model.register_forward_pre_hook(note)
@hookimpl
def sparse_batch_start(run, epoch):
    if epoch == 0:
        run.dense = run.sparsity()
@hookimpl
def sparse_run_end(run, error):
    with open(run.save_dir / "seen.jsonl", "a") as file:
        print(json.dumps({"shapes": run.shapes, "start": getattr(run, "dense", None)}), file=file)
"""
POISON = """
from yolov5_sparse_plugin import hookimpl
@hookimpl
def sparse_batch_start(run, epoch):
    if run.quantized:
        next(run.model.parameters()).data.fill_(float("nan"))
"""


@dataclass
class Run:
    """A finished run: its folder, what was printed, what the observing hook saw (one entry a generation)."""

    folder: Path
    output: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    start: Path | None = None

    def ckpt(self, name: str) -> dict[str, Any]:
        return reading.read(self.folder / "weights" / name)

    @property
    def files(self) -> set[str]:
        return {path.name for path in (self.folder / "weights").glob("*.pt")}

    @property
    def columns(self) -> dict[str, list[float]]:
        return results(Result(0, "", self.folder))

    @property
    def shapes(self) -> list[list[int]]:
        """Of the images of every training batch: [B, 3, H, W]."""
        return self.seen[0]["shapes"]


# ------------------------------------------------------------------------------------------- what holds, case by case


def baseline(run: Run) -> str:
    assert run.columns["sparse/phase"] == [1, 3] and run.seen[0]["start"] < 0.01
    return "dense, pruned in the first epoch, quantized in the second"


def noval(run: Run) -> str:
    skipped, last = run.columns["val/obj_loss"]
    assert skipped == 0 < last
    assert yaml.safe_load((run.folder / "opt.yaml").read_text())["noval"] is True
    return "only the last epoch is validated, and best.pt; opt.yaml says `noval: true`"


def nosave(run: Run) -> str:
    assert run.files == {"best.pt", "best_pruned_quantized.pt", "last.pt"}
    return "written after the last epoch only: no best_pruned.pt"


def evolve(run: Run) -> str:
    generations = (run.folder / "evolve.csv").read_text().splitlines()[1:]
    assert len(generations) == len(run.seen) == 2 and all(one["start"] < 0.01 for one in run.seen)
    assert run.columns["sparse/phase"] == [1, 3, 1, 3]
    assert run.columns["sparse/sparsity"] == pytest.approx([0.6] * 4, abs=1e-4)
    assert not (run.folder / "weights").exists() and (run.folder / "hyp_evolve.yaml").exists()
    return "each generation starts dense and ends pruned and quantized; it is judged by that model's mAP; none is saved"


def freeze(run: Run) -> str:
    before, after = torch.load(run.start, weights_only=False)["model"], run.ckpt("last.pt")["model"]
    kept = {name: value for name, value in before.half().named_parameters() if int(name.split(".")[1]) < 10}
    now = dict(after.named_parameters())
    assert len(kept) == 99 and all(torch.equal(value, now[name]) for name, value in kept.items())
    assert "--freeze keeps 33 of 60 prunable layers as they are" in run.output
    for name, sparsity in run.ckpt("last.pt")["sparse"]["layers"].items():
        weight = now[name]
        assert sparsity == pytest.approx(0 if name in kept else 0.6, abs=1 / weight.numel() + 1e-3), name
    return (
        "frozen layers keep their weights, bit by bit, and are not pruned; all others are, to 60 %; all are quantized"
    )


def no_effect(run: Run) -> str:
    assert run.columns["sparse/phase"] == [1, 3] and "SyncBatchNorm" not in run.output
    return "no effect in one process, as in YOLOv5"


def multi_scale(run: Run) -> str:
    sides = {shape[-1] for shape in run.shapes}
    assert len(sides) > 1 and all(side % 32 == 0 and 32 <= side <= 96 for side in sides)
    return "quantizers observe batches of several sizes"


def cache_ram(run: Run) -> str:
    assert run.columns["sparse/phase"] == [1, 3]
    return "same phases"


def cache_disk(run: Run) -> str:
    folder = Path(yaml.safe_load((run.folder / "opt.yaml").read_text())["data"]).parent
    assert len(list(folder.rglob("*.npy"))) == 12
    return "one .npy for each picture"


def rect(run: Run) -> str:
    assert {tuple(shape[-2:]) for shape in run.shapes} == {(32, 64), (64, 64)}
    return "batches of one shape each; quantizers observe both"


def single_cls(run: Run) -> str:
    model = run.ckpt("best.pt")["model"]
    assert model.nc == 1 and model.names == {0: "item"} and model.model[-1].nc == 1
    return "one class, `item`; the weights that it starts from have three"


def image_weights(run: Run) -> str:
    assert [shape[0] for shape in run.shapes] == [4] * 4
    return "as many batches an epoch as without, so the recipe's clock is the same"


def quad(run: Run) -> str:
    assert run.shapes == [[1, 3, 128, 128]] * 4
    return "four pictures become one of twice the size; the clock counts the same batches"


def cos_lr(run: Run) -> str:
    cosine = [((1 - np.cos(e * np.pi / 3)) / 2) * (0.01 - 1) + 1 for e in range(3)]
    # upstream's warm-up lasts 100 batches: this is the last of two in each epoch
    warm = [0.01 * factor * batch / 100 for factor, batch in zip(cosine, (1, 3, 5))]
    assert run.columns["x/lr1"] == pytest.approx(warm, rel=1e-3)
    return "YOLOv5's cosine, warm-up included, where the recipe has no learning rate"


def cos_lr_owned(run: Run) -> str:
    assert "the recipe sets the learning rate, --cos-lr only what is before its first modifier" in run.output
    assert run.columns["x/lr1"] == pytest.approx([0.004 * (1 - n / 4) for n in (2, 4)], abs=0.0011)
    return "the recipe's learning rate wins, and it is said"


def autobatch(run: Run) -> str:
    assert [shape[0] for shape in run.shapes] == [8] * 2  # no more than there are pictures
    assert "AutoBatch" in run.output and "a batch of 8 images of 64 px keeps about" in run.output
    return (
        "it measures the float model, and quantization needs more: what it found is compared with the free memory "
        "before the run; `--sparse-qat-batch-size` lowers the need"
    )


def optimizer(run: Run, name: str = "") -> str:
    assert f"{name}(lr=0.01)" in run.output
    weights = dict(run.ckpt("last.pt")["model"].named_parameters())
    for layer in run.ckpt("last.pt")["sparse"]["layers"]:
        assert zeros(weights[layer]) == pytest.approx(0.6, abs=1 / weights[layer].numel() + 1e-9), layer
    return "its moments move no pruned weight: every layer is at 60 % to the last weight"


def label_smoothing(run: Run) -> str:
    assert run.ckpt("best.pt")["model"].hyp["label_smoothing"] == 0.1
    return "in the loss, and in the checkpoint's `hyp`"


def plots(run: Run) -> str:
    drawn = {"results.png", "confusion_matrix.png", "train_batch0.jpg", "labels.jpg", "PR_curve.png"}
    assert drawn <= {path.name for path in run.folder.iterdir()}
    return "all plots are drawn; TensorBoard's graph is that of the float model"


def autoanchor(run: Run) -> str:
    assert "AutoAnchor: " in run.output
    ckpt = run.ckpt("best.pt")
    restored = quantizers.quantized_model(run.ckpt("best.pt"))
    assert torch.allclose(ckpt["model"].model[-1].anchors.float(), restored.model[-1].anchors, rtol=1e-3)
    return "anchors are found before the first epoch, and are the quantized model's"


def save_period(run: Run) -> str:
    phases = [run.ckpt(f"epoch{epoch}.pt")["sparse"]["phase"] for epoch in (0, 1)]
    assert phases == ["pruned", "pruned_quantized"]
    return "epoch0.pt is pruned, epoch1.pt pruned and quantized"


def patience(run: Run) -> str:
    """Patience 1 would end a run that gets worse after its second epoch; quantization starts in that one."""
    assert run.columns["epoch"] == [0, 1, 2] and run.columns["sparse/phase"] == [1, 3, 3]
    return "early stopping waits for the recipe's last change, and starts anew with it: here 3 of 6 epochs"


def workers(run: Run) -> str:
    assert "Using 2 dataloader workers" in run.output and run.columns["sparse/phase"] == [1, 3]
    return "same phases"


def classes(run: Run) -> str:
    before = torch.load(run.start, weights_only=False)["model"]
    after = run.ckpt("last.pt")["model"]
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert before.nc == 80 and after.nc == 3
    for name, sparsity in run.ckpt("last.pt")["sparse"]["layers"].items():
        if name.startswith("model.24."):
            assert sparsity < 0.01, name
        else:
            assert torch.equal(old[name] == 0, new[name] == 0) and sparsity > 0.69, name
    return "every layer but Detect's outputs, which start anew and dense, keeps the zeros it came with"


# ------------------------------------------------------------------------------------------------------------ the cases


@dataclass
class Case:
    """One row: what is typed, what must hold, and what the words are that differ from the common ones."""

    typed: str
    holds: Callable[[Run], str]
    words: dict[str, Any] = field(default_factory=dict)
    sparsity: str | None = "60 %"
    recipe: str = TWO
    args: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    hooks: str = OBSERVE


CASES = {
    "baseline": Case("no other option", baseline),
    "noval": Case("`--noval`", noval, {"noval": True}),
    "nosave": Case("`--nosave`", nosave, {"nosave": True}),
    "evolve": Case("`--evolve 2`", evolve, {"evolve": 2}, sparsity=None),
    "freeze": Case("`--freeze 10`", freeze, {"freeze": [10]}, sparsity="24 %", start="dense"),
    "sync_bn": Case("`--sync-bn`, one process", no_effect, {"sync_bn": True}),
    "multi_scale": Case("`--multi-scale`", multi_scale, {"multi_scale": True}),
    "cache_ram": Case("`--cache ram`", cache_ram, {"cache": "ram"}),
    "cache_disk": Case("`--cache disk`", cache_disk, {"cache": "disk"}),
    "rect": Case("`--rect`", rect, {"rect": True}),
    "single_cls": Case("`--single-cls`, from weights of 3 classes", single_cls, {"single_cls": True}, start="dense"),
    "classes": Case("3 classes, from sparse weights of 80", classes, recipe=HELD, sparsity="70 %", start="sparse80"),
    "image_weights": Case("`--image-weights`", image_weights, {"image_weights": True}),
    "quad": Case("`--quad`", quad, {"quad": True}),
    "cos_lr": Case("`--cos-lr`", cos_lr, {"cos_lr": True, "epochs": 3}, args={"num_epochs": 3}),
    "cos_lr_owned": Case(
        "`--cos-lr`, the recipe has a learning rate", cos_lr_owned, {"cos_lr": True}, recipe=TWO + RATES
    ),
    "autobatch": Case("`--batch-size -1`", autobatch, {"batch_size": -1}),
    "adam": Case("`--optimizer Adam`", partial(optimizer, name="Adam"), {"optimizer": "Adam"}),
    "adamw": Case("`--optimizer AdamW`", partial(optimizer, name="AdamW"), {"optimizer": "AdamW"}),
    "label_smoothing": Case("`--label-smoothing 0.1`", label_smoothing, {"label_smoothing": 0.1}),
    "plots": Case("without `--noplots`", plots, {"noplots": False}),
    "autoanchor": Case("without `--noautoanchor`", autoanchor, {"noautoanchor": False}),
    "save_period": Case("`--save-period 1`", save_period, {"save_period": 1}),
    "patience": Case(
        "`--patience 1`", patience, {"patience": 1, "epochs": 6}, args={"num_epochs": 6}, hooks="worsening"
    ),
    "workers": Case("`--workers 2`", workers, {"workers": 2}),
}
REFUSED = ("nan", "nan_later", "empty", "unlabelled", "label", "sync_bn_several")
# options that no case has, and why: where a run with a recipe is tested with them, or what they are
ELSEWHERE = {
    "weights cfg data hyp epochs imgsz batch-size device project name exist-ok": "in every run of this page",
    "resume": "tests/test_checkpoints.py and tests/test_memory.py",
    "seed": "test_every_run_starts_from_the_same_state",
    "local_rank": "set by older launchers, read by nobody",
    "entity bbox_interval artifact_alias": "Weights & Biases; tests/test_training.py logs to it",
    "bucket upload_dataset s3_upload_dir hf_model_id hf_token hf_private hf_dataset_id roboflow_token roboflow_upload "
    "neptune_token neptune_project neptune_resume_id": "need an account at a service; what they upload is best.pt",
}


# --------------------------------------------------------------------------------------------------------- running them


pytestmark = pytest.mark.long  # a run for each option


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The data.yaml of 8 training and 4 validation pictures, half of them 64x32, the others 64x64."""
    return make(tmp_path_factory.mktemp("pictures"))


def make(folder: Path) -> Path:
    from PIL import Image

    from yolov5_sparse_plugin.demo import make_data

    file = make_data(folder, size=64, counts=(8, 4))
    for picture in sorted(folder.rglob("images/*/*"))[::2]:
        Image.open(picture).resize((64, 32)).save(picture)
    return file


@pytest.fixture(scope="module")
def starts(once, shapes, finished) -> Callable[[str | None], Path | None]:
    """Weights to start from: dense ones of 3 classes, or sparse ones of 80."""

    def sparse80(cwd: Path) -> Result:
        text = shapes.read_text()
        names = "".join(f"  {i}: thing{i}\n" for i in range(3, 80))
        (cwd / "data80.yaml").write_text(text.rstrip("\n") + "\n" + names)
        (cwd / "prune.yaml").write_text(HELD[: HELD.index("  - !Constant")] + PRUNE_AT_ONCE)
        words = ["--sparse-recipe", "prune.yaml", "--sparse-recipe-args", "num_epochs=1"]
        return yolov5_train(cwd, cwd / "data80.yaml", *words)

    def find(name: str | None) -> Path | None:
        if name == "dense":
            return finished.weights / "best_dense.pt"
        return None if name is None else once(name, sparse80).weights / "last.pt"

    return find


PRUNE_AT_ONCE = """\
  - !MagnitudePruningModifier
      params: __ALL_PRUNABLE__
      init_sparsity: 0.7
      final_sparsity: 0.7
      start_epoch: 0.0
      end_epoch: 1.0
      update_frequency: 0.25
"""


def common(case: Case, data: Path, project: Path, name: str, start: Path | None) -> dict[str, Any]:
    """Return the keywords of a run: those of every run, and the case's own."""
    model = {"weights": str(start), "cfg": ""} if start else {"weights": "", "cfg": "yolov5n.yaml"}
    words = dict(data=str(data), hyp=hyperparameters(), imgsz=64, batch_size=4, device="cpu", workers=0, epochs=2)
    words.update(noplots=True, noautoanchor=True, project=str(project), name=name, **model)
    return {**words, **case.words}


@pytest.fixture(scope="module")
def train(tmp_path_factory, data, starts, worsening) -> Callable[..., Run]:
    """Train in this process: each run must leave it as the next one needs it."""
    import yolov5.train

    project = tmp_path_factory.mktemp("cases")

    def run(name: str, case: Case, **more: Any) -> Run:
        hooks = worsening
        if case.hooks != "worsening":
            hooks = project / f"{name}.py"
            hooks.write_text(case.hooks)
        start = starts(case.start)
        words = {**common(case, data, project, name, start), **more}
        args = {**ARGS, **case.args}
        given = {"sparse_recipe": case.recipe, "sparse_recipe_args": args, "sparse_hooks": [str(hooks)]}
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        yolov5.train.LOGGER.addHandler(handler)
        yolov5.train.LOGGER.setLevel(logging.INFO)  # yolov5.load(verbose=False) lowers it for the whole process
        try:
            yolov5.train.run(**words, **given)
        finally:
            yolov5.train.LOGGER.removeHandler(handler)
        seen = project / name / "seen.jsonl"
        entries = [json.loads(line) for line in seen.read_text().splitlines()] if seen.exists() else []
        run.made[name] = Run(project / name, "\n".join(lines), entries, start)
        return run.made[name]

    run.project, run.made = project, {}
    return run


DIVERGING = {"lr0": 1e30, "warmup_bias_lr": 1e30}


def hyp_of(folder: Path, **changed: float) -> str:
    hyp = {**yaml.safe_load(Path(hyperparameters()).read_text()), **changed}
    (folder / "hyp.yaml").write_text(yaml.safe_dump(hyp))
    return str(folder / "hyp.yaml")


# runs each case with YOLOv5 alone; its default Callbacks() keep the loggers of runs before, so each gets its own
ALONE = """
import json, sys
import yolov5.train
from yolov5.utils.callbacks import Callbacks
found = {}
cases = json.load(open("cases.json"))
sys.argv = ["train"]
for name, words in cases.items():
    opt = yolov5.train.parse_opt(True)
    for key, value in words.items():
        setattr(opt, key, value)
    try:
        yolov5.train.main(opt, Callbacks())
        found[name] = "runs"
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def alone(once, data, starts) -> dict[str, str]:
    """What YOLOv5 without the plugin makes of each case: `runs`, or the error."""

    def run(cwd: Path) -> Result:
        cases = {name: common(case, data, cwd / "runs", name, starts(case.start)) for name, case in CASES.items()}
        cases["nan"] = {**common(CASES["baseline"], data, cwd / "runs", "nan", None), "hyp": hyp_of(cwd, **DIVERGING)}
        (cwd / "cases.json").write_text(json.dumps(cases))
        without = {"YOLOV5_SPARSE_AUTOLOAD": "0", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        return call([sys.executable, "-c", ALONE], cwd, **without)

    folder = once("alone", run).folder.parent.parent
    return {**json.loads((folder / "found.json").read_text()), "folder": str(folder)}


# ------------------------------------------------------------------------------------------------------------ the table


class Table:
    """The rows of docs/compatibility.md: compared one by one, or written anew."""

    def __init__(self, write: bool):
        self.write = write
        self.rows: dict[str, str] = {}
        self.page = PAGE.read_text() if PAGE.exists() else ""

    def row(self, name: str, *cells: str) -> None:
        """Compare a row with the committed one, or keep it."""
        self.rows[name] = f"| {' | '.join(cells)} |"
        assert self.write or self.rows[name] in self.page.splitlines(), (
            "docs/compatibility.md does not say this; see the top of this file for how to write it anew"
        )

    def save(self) -> None:
        names = [*CASES, *REFUSED]
        assert not set(names) - set(self.rows), f"not all cases ran: {set(names) - set(self.rows)}"
        PAGE.write_text(page([self.rows[name] for name in CASES], [self.rows[name] for name in REFUSED]))


def page(ran: list[str], refused: list[str]) -> str:
    others = [f"| {', '.join(f'`--{n}`' for n in names.split())} | {why} |" for names, why in ELSEWHERE.items()]
    return "\n".join(
        [
            "# What works together",
            "",
            "Each option of `yolov5 train` that changes how a run goes, with a recipe that prunes to 60 % in the first",
            "epoch and quantizes in the second. Written by the test that runs it, do not edit:",
            "",
            "    pytest -n0 tests/test_compatibility.py --write-compatibility",
            "",
            "| option | YOLOv5 7.0.14 alone | with a recipe | best.pt and last.pt | what holds |",
            "|---|---|---|---|---|",
            *ran,
            "",
            "## What ends a run",
            "",
            "In one sentence, with exit status 2. (YOLOv5 alone goes on with NaN, writes it over best.pt, exits with",
            "status 0.)",
            "",
            "| case | what it says |",
            "|---|---|",
            *refused,
            "",
            "## Other options",
            "",
            "| option | |",
            "|---|---|",
            *others,
            "",
        ]
    )


@pytest.fixture(scope="module")
def table(request) -> Iterator[Table]:
    table = Table(request.config.getoption("--write-compatibility"))
    yield table
    if table.write:
        table.save()


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("name", CASES)
def test_option(name, train, alone, table, tmp_path):
    case = CASES[name]
    more = {"data": str(make(tmp_path / "own"))} if name == "cache_disk" else {}
    run = train(name, case, **more)
    if case.sparsity is None:
        found = "none, as in YOLOv5"
    else:
        parts = [run.ckpt(file)["sparse"] for file in ("best.pt", "last.pt")]
        assert [part["phase"] for part in parts] == ["pruned_quantized"] * 2
        assert {f"{part['sparsity']:.0%}".replace("%", " %") for part in parts} == {case.sparsity}
        found = f"pruned and quantized, {case.sparsity}"
    upstream = alone[name] if alone[name] == "runs" else f"fails: {alone[name]}"
    table.row(name, case.typed, upstream, "runs", found, case.holds(run))


def test_every_run_starts_from_the_same_state(train):
    """A run, and once more with the same seed after others, are one; with another seed it is another."""
    first = train.made.get("baseline") or train("first", CASES["baseline"])
    other, again = train("other", CASES["adam"], seed=1, optimizer="SGD"), train("again", CASES["baseline"])
    weights = [
        torch.cat([p.flatten() for p in run.ckpt("last.pt")["model"].parameters()]) for run in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.columns == again.columns and first.columns["sparse/phase"] == other.columns["sparse/phase"]


def refusal(train, name: str, case: Case, **more: Any) -> str:
    with pytest.raises(SparsePluginError) as caught:
        train(name, case, **more)
    assert caught.value.exit_status == 2
    return str(caught.value)


def shown(message: str, *paths: Path) -> str:
    """Return a message for the table: file names in place of paths."""
    for path in sorted(map(str, paths), key=len, reverse=True):
        message = message.replace(path, Path(path).name)
    return message.replace("recipe text", "recipe.yaml")


def test_nan_in_the_first_epoch(train, alone, table, tmp_path):
    """YOLOv5 alone goes on, and writes the model that it has lost."""
    message = refusal(train, "nan", CASES["baseline"], hyp=hyp_of(tmp_path, **DIVERGING))
    assert "the loss has diverged" in message and "in epoch 1 of 2" in message
    assert not list((train.project / "nan").rglob("*.pt"))
    lost = torch.load(Path(alone["folder"]) / "runs" / "nan" / "weights" / "best.pt", weights_only=False)["model"]
    assert alone["nan"] == "runs" and any(torch.isnan(p).any() for p in lost.parameters())
    table.row("nan", "NaN in the first epoch", shown(message))


def test_nan_leaves_the_checkpoints_of_the_epoch_before(train, table):
    case = replace(CASES["baseline"], hooks=POISON)
    message = refusal(train, "nan_later", case)
    weights = train.project / "nan_later" / "weights"
    for name in ("last.pt", "best.pt", "best_pruned.pt"):
        ckpt = reading.read(weights / name)
        assert ckpt["epoch"] == 0 and ckpt["sparse"]["phase"] == "pruned"
        assert all(torch.isfinite(value).all() for value in ckpt["sparse"]["state"].values())
    table.row("nan_later", "NaN once quantized", shown(message, weights / "last.pt"))


def test_an_empty_data_set(data, recipe, table, tmp_path):
    """Through the command: one sentence, no traceback."""
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.yaml").write_text(data.read_text().replace("images/train", str(tmp_path / "void")))
    run = yolov5_train(tmp_path, tmp_path / "empty.yaml", "--sparse-recipe", recipe, status=2)
    message = run.output.splitlines()[-1].removeprefix("yolov5-sparse: error: ")
    assert "Traceback" not in run.output and not list(tmp_path.rglob("*.pt"))
    table.row("empty", "no pictures", shown(message, tmp_path / "void", tmp_path / "empty.yaml"))


def test_a_data_set_without_labels(train, table, tmp_path):
    own = make(tmp_path / "own")
    shutil.rmtree(own.parent / "labels")
    message = refusal(train, "unlabelled", CASES["baseline"], data=str(own))
    table.row("unlabelled", "no labels", shown(message, own, own.parent / "labels" / "train.cache"))


def test_labels_of_classes_that_the_data_set_does_not_name(train, data, table, tmp_path):
    (tmp_path / "two.yaml").write_text(data.read_text().replace("  2: cross\n", ""))
    message = refusal(train, "label", CASES["baseline"], data=str(tmp_path / "two.yaml"))
    table.row("label", "a label beyond the classes", shown(message, tmp_path / "two.yaml"))


def test_batch_norm_across_processes(data, recipe, table, tmp_path):
    """Refused before anything is written: RANK says that there are several."""
    run = yolov5_train(tmp_path, data, "--sparse-recipe", recipe, "--sync-bn", status=2, env={"RANK": "0"})
    message = run.output.splitlines()[-1].removeprefix("yolov5-sparse: error: ")
    assert "Traceback" not in run.output and not (tmp_path / "runs").exists()
    table.row("sync_bn_several", "`--sync-bn`, several processes", shown(message, recipe))


def test_every_option_of_yolov5_train_has_its_place():
    import yolov5.train

    found = {name for case in CASES.values() for name in case.words}
    found |= {name.replace("-", "_") for names in ELSEWHERE for name in names.split()}
    assert set(vars(yolov5.train.parse_opt.__yolov5_sparse_original__(True))) == found


def test_the_page_has_no_other_rows(table, alone):  # `alone`: so that it comes last
    if table.write or not set(table.rows) >= {*CASES, *REFUSED}:
        pytest.skip("the page is written at the end, or not all cases have run in this process")
    assert table.page == page([table.rows[name] for name in CASES], [table.rows[name] for name in REFUSED])
