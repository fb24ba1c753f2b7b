"""The contract: hooks fire in the promised order, each is documented and tested, anybody can register one."""

from __future__ import annotations

import inspect
import json
import re
import shutil

import pytest
from conftest import REPOSITORY, call, command, results, yolov5_train

from yolov5_sparse_plugin import hookspecs, manager
from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.errors import PluginError

SPECS = {
    name: spec for name, spec in vars(hookspecs).items() if name.startswith("sparse_") and inspect.isfunction(spec)
}
# writes down every hook with what it was given
SPY = """
import json
from yolov5_sparse_plugin import hookimpl
def note(hook, **given):
    with open("fired.jsonl", "a") as file:
        file.write(json.dumps([hook, {k: v if isinstance(v, (str, int, float)) else type(v).__name__
                                      for k, v in given.items()}]) + "\\n")
@hookimpl
def sparse_resolve(kind, address, options): note("sparse_resolve", kind=kind, address=address, options=options)
@hookimpl
def sparse_run_start(run): note("sparse_run_start", run=run)
@hookimpl
def sparse_seams(run):
    note("sparse_seams", run=run); return {}
@hookimpl
def sparse_model_built(run, model): note("sparse_model_built", run=run, model=model)
@hookimpl
def sparse_batch_start(run, epoch): note("sparse_batch_start", run=run, epoch=epoch)
@hookimpl
def sparse_phase_changed(run, before, after): note("sparse_phase_changed", run=run, before=before, after=after)
@hookimpl
def sparse_epoch_end(run, epoch): note("sparse_epoch_end", run=run, epoch=epoch)
@hookimpl
def sparse_log(run):
    note("sparse_log", run=run); return {"spy/answer": 42.0}
@hookimpl
def sparse_pack(run, ckpt):
    note("sparse_pack", run=run, ckpt=ckpt); ckpt["sparse"]["spy"] = "was here"
@hookimpl
def sparse_run_end(run, error): note("sparse_run_end", run=run, error=error)
@hookimpl
def sparse_export_start(export): note("sparse_export_start", export=export)
@hookimpl
def sparse_export_graph(export, model): note("sparse_export_graph", export=export, model=model)
@hookimpl
def sparse_export_done(export, file): note("sparse_export_done", export=export, file=file)
"""


@pytest.fixture(scope="module")
def spied(once, shapes, recipe):
    """A traced run of three epochs of two batches and the export of its best model, with every hook that fired."""

    def run(folder):
        (folder / "spy.py").write_text(SPY)
        args = "num_epochs=3,pruning_end_epoch=1.5,quantization_start_epoch=2"
        words = ["--sparse-recipe", recipe, "--sparse-recipe-args", args, "--sparse-hooks", "spy.py"]
        done = yolov5_train(folder, shapes, *words, batch=16, env={"YOLOV5_SPARSE_TRACE": "1"})
        (folder / "export").mkdir()
        words = ["export", "--weights", done.weights / "best.pt", "--imgsz", 64, "--sparse-hooks", folder / "spy.py"]
        call([command("yolov5"), *words, "--sparse-report", "none"], folder / "export")
        return done

    done = once("spied", run)
    folder = done.folder.parent.parent
    lines = [line for file in ("", "export") for line in (folder / file / "fired.jsonl").read_text().splitlines()]
    return done, [json.loads(line) for line in lines]


def test_every_hook_fires_with_its_exact_arguments(spied):
    _, fired = spied
    assert {name for name, _ in fired} == set(SPECS)
    for name, given in fired:
        assert list(given) == list(inspect.signature(SPECS[name]).parameters), name


def test_hooks_fire_in_the_order_of_the_contract(spied):
    _, fired = spied
    firsts = list(dict.fromkeys(name for name, _ in fired))
    declared = list(SPECS)
    # the first phase change comes after the first epoch's end: pruning ends there
    early = [n for n in firsts if n not in ("sparse_phase_changed",)]
    assert early == [n for n in declared if n != "sparse_phase_changed"]
    names = [name for name, _ in fired]
    batches = [given["epoch"] for name, given in fired if name == "sparse_batch_start"]
    assert batches == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert [given["epoch"] for name, given in fired if name == "sparse_epoch_end"] == [1, 2, 3]
    changes = [(g["before"], g["after"]) for n, g in fired if n == "sparse_phase_changed"]
    assert changes == [("dense", "pruned"), ("pruned", "pruned_quantized")]
    end = names.index("sparse_run_end")
    assert fired[end][1]["error"] == "NoneType"
    assert names[end + 1 :] == ["sparse_resolve", "sparse_export_start", "sparse_export_graph", "sparse_export_done"]


def test_what_a_drop_in_logs_stands_beside_the_plugins_own_figures(spied):
    run, _ = spied
    assert results(run)["spy/answer"] == [42.0, 42.0, 42.0]
    assert results(run)["sparse/phase"] == [0, 1, 3]


def test_trace_shows_the_hooks_as_they_fire(spied):
    run, _ = spied
    assert "[yolov5-sparse]" in run.output and "sparse_phase_changed" in run.output


def test_every_hook_is_documented_with_its_arguments():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for name, spec in SPECS.items():
        arguments = ", ".join(inspect.signature(spec).parameters)
        assert f"`{name}({arguments})`" in text, f"CONTRIBUTING.md does not document {name}({arguments})"
        assert len(spec.__doc__) > 60


def test_contributing_lists_the_hooks_in_firing_order():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"`(sparse_\w+)\(", text)
    assert list(dict.fromkeys(listed)) == list(SPECS)


def test_every_builtin_hook_file_is_registered_and_in_this_order():
    files = {path.stem for path in (REPOSITORY / "hooks").glob("*.py")} - {"__init__"}
    assert files == set(manager.DEFAULT_HOOKS)
    assert [name for name, _ in manager.create().list_name_plugin()] == list(manager.DEFAULT_HOOKS)


def test_blocked_hooks_are_not_registered_and_unknown_names_are_refused():
    assert not manager.create(blocked=["lr_and_stopping"]).has_plugin("lr_and_stopping")
    with pytest.raises(PluginError, match="no hook 'lr_and_stoping'. Did you mean 'lr_and_stopping'"):
        manager.create(blocked=["lr_and_stoping"])


def test_hook_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("")
    with pytest.raises(PluginError, match="there is a hook 'mine' already. Rename the file"):
        manager.create([str(tmp_path / "a" / "mine.py"), str(tmp_path / "b" / "mine.py")])


@pytest.mark.parametrize("name", manager.DEFAULT_HOOKS)
def test_without_any_one_hook_the_host_still_trains(tmp_path, shapes, recipe, name):
    args = "num_epochs=1,pruning_end_epoch=1,quantization_start_epoch=0.5"
    text = recipe.read_text().replace("start_epoch: 1.0", "start_epoch: 0.0")
    (tmp_path / "r.yaml").write_text(text)
    run = yolov5_train(
        tmp_path,
        shapes,
        "--sparse-recipe",
        "r.yaml",
        "--sparse-recipe-args",
        args,
        "--epochs",
        1,
        batch=16,
        env={"YOLOV5_SPARSE_DISABLE": name},
    )
    assert (run.weights / "last.pt").exists()
    if name == "sparse_training":
        assert "the recipe will not be executed" in run.output


@pytest.mark.parametrize("blocked", ["onnx_fixer", "export_report", "onnx_fixer,export_report"])
def test_without_the_fixer_or_the_report_an_export_still_exports(blocked, spied, tmp_path):
    run, _ = spied
    shutil.copyfile(run.weights / "best.pt", tmp_path / "best.pt")
    words = ["export", "--weights", "best.pt", "--imgsz", 64, "--sparse-report", "fast"]
    call([command("yolov5"), *words], tmp_path, YOLOV5_SPARSE_DISABLE=blocked)
    report = set() if "export_report" in blocked else {"best.export.json", "best.report.html", "best.sparsity.png"}
    assert {p.name for p in tmp_path.iterdir()} == {"best.onnx", "best.pt"} | report


def test_entry_points_are_registered(tmp_path, monkeypatch):
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[yolov5_sparse]\nthird_party = third_party_hooks\n")
    (tmp_path / "third_party_hooks.py").write_text(
        "from yolov5_sparse_plugin import hookimpl\n@hookimpl\ndef sparse_log(run): return {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    created = manager.create()
    assert [name for name, _ in created.list_name_plugin()][-1] == "third_party"
    assert not manager.create(blocked=["third_party"]).has_plugin("third_party_hooks")


def test_a_hook_that_does_not_fit_is_named_with_its_signature(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from yolov5_sparse_plugin import hookimpl\n@hookimpl\ndef sparse_log(run, colour): pass\n")
    with pytest.raises(PluginError, match=r"(?s)wrong.*sparse_log.*colour"):
        manager.create([str(wrong)])
    unknown = tmp_path / "unknown.py"
    unknown.write_text("from yolov5_sparse_plugin import hookimpl\n@hookimpl\ndef sparse_lug(run): pass\n")
    with pytest.raises(PluginError, match="sparse_lug"):
        manager.create([str(unknown)])
    with pytest.raises(PluginError, match="there is no such file"):
        manager.create([str(tmp_path / "none.py")])


def test_hooks_are_thin_and_sparseml_is_imported_in_the_engine_only():
    for path in (REPOSITORY / "hooks").glob("*.py"):
        assert len(path.read_text().splitlines()) < 120, path
    for folder in ("hooks", "yolov5_sparse_plugin"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if "engine" not in path.parts:
                assert not re.search(r"^\s*(import|from) sparseml", path.read_text(), re.M), path


def test_what_a_drop_in_packs_is_in_the_finished_checkpoint(spied):
    run, _ = spied
    for name in ("best_pruned.pt", "best.pt", "last.pt"):
        assert reading.read(run.weights / name)["sparse"]["spy"] == "was here"


def test_a_hook_file_may_bring_a_modifier(tmp_path):
    """The one that CONTRIBUTING.md shows, word for word."""
    import torch

    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.errors import RecipeError
    from yolov5_sparse_plugin.recipes_io import RecipeText

    page = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("### A modifier of your own")[2]
    text = RecipeText("modifiers:\n  - !ShrinkBiasModifier {factor: 0.5, start_epoch: 1.0}\n", "r.yaml")
    with pytest.raises(RecipeError, match="no modifier 'ShrinkBiasModifier'.*One of your own needs its file"):
        engines.load(text)
    (tmp_path / "shrink.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    manager.create([str(tmp_path / "shrink.py")])
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = model[0].bias.detach().clone()
    optimizer = engines.load(text).wrap(torch.optim.SGD(model.parameters(), lr=0.0), model, None)
    optimizer.bind(2)
    for _ in range(4):
        optimizer.step()
    assert torch.equal(model[0].bias, before * 0.5)
    with pytest.raises(RecipeError, match=r"line 2: ShrinkBiasModifier: no key 'factr'. Did you mean 'factor'"):
        engines.load(RecipeText(text.text.replace("factor", "factr"), "r.yaml"))


def test_a_hook_that_asks_too_early_is_told_when_to_ask(tmp_path, shapes, recipe):
    (tmp_path / "early.py").write_text(
        "from yolov5_sparse_plugin import hookimpl\n@hookimpl\ndef sparse_run_start(run):\n    run.model\n"
    )
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", recipe, "--sparse-hooks", "early.py", status=2)
    assert "run.model: it is not there yet. YOLOv5 has to build it first" in run.output
