"""Options: one validated object; command line > environment > config file > default."""

from __future__ import annotations

import pytest
from conftest import call, command, yolov5_train

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.errors import OptionError


def test_precedence_is_typed_then_environment_then_config_file(tmp_path):
    (tmp_path / "yolov5-sparse.yaml").write_text("recipe: config.yaml\nrecipe_args: {a: 1}\nteacher: t.pt\n")
    environ = {"YOLOV5_SPARSE_RECIPE": "environment.yaml", "YOLOV5_SPARSE_RECIPE_ARGS": "a=2"}
    typed = {"sparse_recipe": "typed.yaml", "epochs": 3}
    found = options.resolve(typed, environ=environ, cwd=tmp_path)
    assert (found.recipe, found.recipe_args, found.teacher) == ("typed.yaml", {"a": 2}, "t.pt")
    assert found.origin == {
        "recipe": "--sparse-recipe",
        "recipe_args": "YOLOV5_SPARSE_RECIPE_ARGS",
        "teacher": "yolov5-sparse.yaml",
    }
    assert options.resolve({}, environ=environ, cwd=tmp_path).recipe == "environment.yaml"
    assert options.resolve({}, environ={}, cwd=tmp_path).recipe == "config.yaml"
    assert options.resolve({}, environ={}, cwd=tmp_path.parent).recipe is None


def test_a_resumed_runs_options_stand_below_typed_ones(tmp_path):
    recorded = {"recipe": "recorded.yaml"}
    environ = {"YOLOV5_SPARSE_RECIPE": "environment.yaml"}
    assert options.resolve({}, recorded, environ, tmp_path).recipe == "recorded.yaml"
    assert options.resolve({"recipe": "typed.yaml"}, recorded, environ, tmp_path).recipe == "typed.yaml"


@pytest.mark.parametrize(
    "value, expected",
    [
        ("num_epochs=12", {"num_epochs": 12}),
        ("num_epochs=12, init_lr=1e-3,name=x", {"num_epochs": 12, "init_lr": 0.001, "name": "x"}),
        ('{"num_epochs": 10}', {"num_epochs": 10}),
        ({"num_epochs": 10}, {"num_epochs": 10}),
    ],
)
def test_recipe_args_in_every_spelling(value, expected, tmp_path):
    typed = {"sparse_recipe": "r.yaml", "sparse_recipe_args": value}
    assert options.resolve(typed, environ={}, cwd=tmp_path).recipe_args == expected


@pytest.mark.parametrize(
    "typed, message",
    [
        ({"sparse_recpie": "x"}, r"--sparse-recpie: no such option\. Did you mean '--sparse-recipe'"),
        ({"sparse_recipe": True}, r"--sparse-recipe: needs a value, a path or a name; got True"),
        ({"sparse_recipe": 3}, r"--sparse-recipe: needs a value"),
        ({"sparse_recipe": "r", "sparse_recipe_args": 12}, r"--sparse-recipe-args: expected .* got 12 \(int\)"),
        ({"sparse_recipe": "r", "recipe_args": "epochs"}, r"--recipe-args: expected 'name=value,name=value'"),
        ({"sparse_recipe": "r", "recipe_args": "{x"}, r"--recipe-args: '\{x' is not valid JSON"),
        ({"sparse_recipe": "r", "recipe_args": ["a=1"]}, r"--recipe-args: expected .* got \['a=1'\] \(list\)"),
        ({"sparse_recipe": "r", "recipe_args": {1: 2}}, r"--recipe-args: expected .* got \{1: 2\} \(dict\)"),
        ({"sparse_hooks": 3}, r"--sparse-hooks: expected one or more paths, got 3"),
        ({"sparse_hooks": [3]}, r"--sparse-hooks: needs a value, a path or a name; got 3"),
        ({"sparse_hook": "h.py"}, r"--sparse-hook: no such option\. Did you mean '--sparse-hooks'"),
        ({"sparse_args": "a=1"}, r"--sparse-args: no such option\. Did you mean '--sparse-recipe-args'"),
        ({"sparse_recipe_args": "a=1"}, r"no recipe\. Add --sparse-recipe"),
    ],
)
def test_mistakes_on_the_command_line_are_named(typed, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        options.resolve(typed, environ={}, cwd=tmp_path)


def test_recipe_args_at_export_are_the_one_shot_recipes(tmp_path):
    def found(typed, **environ):
        environ = {f"YOLOV5_SPARSE_{name}": value for name, value in environ.items()}
        return options.resolve(typed, environ=environ, cwd=tmp_path, command="export").recipe_args

    typed = {"sparse_recipe_args": "a=1"}
    assert found({**typed, "sparse_one_shot": "r"}) == {"a": 1}
    assert found({"sparse_one_shot": "r"}, RECIPE_ARGS="a=2") == {"a": 2}
    assert found({"sparse_one_shot": "r"}, RECIPE="trains", RECIPE_ARGS="a=2") == {}
    assert found({}, RECIPE="trains", RECIPE_ARGS="a=2") == {}
    with pytest.raises(OptionError, match=r"--sparse-recipe-args: .* no recipe\. Add --sparse-one-shot"):
        found(typed, RECIPE="trains")


def test_mistakes_in_the_environment_and_the_config_file_are_named(tmp_path):
    with pytest.raises(OptionError, match="YOLOV5_SPARSE_RECEIPT: no such option.*YOLOV5_SPARSE_RECIPE"):
        options.resolve({}, environ={"YOLOV5_SPARSE_RECEIPT": "x"}, cwd=tmp_path)
    config = tmp_path / "yolov5-sparse.yaml"
    for text, message in (
        ("receipt: x", "no option 'receipt'. Did you mean 'recipe'"),
        ("recipe: [1, 2]", "yolov5-sparse.yaml: recipe: needs a value"),
        ("- recipe", "expected 'option: value' lines, found list"),
        ("recipe: [", "not valid YAML"),
    ):
        config.write_text(text)
        with pytest.raises(OptionError, match=message):
            options.resolve({}, environ={}, cwd=tmp_path)
    with pytest.raises(OptionError, match="there is no such file"):
        options.resolve({}, environ={"YOLOV5_SPARSE_CONFIG": str(tmp_path / "no.yaml")}, cwd=tmp_path)


def test_a_misspelt_option_ends_the_command_before_anything_is_written(tmp_path, shapes):
    run = yolov5_train(tmp_path, shapes, "--epochs", 1, "--sparse-recpie", "r.yaml", status=2)
    assert "error: --sparse-recpie: no such option. Did you mean '--sparse-recipe'" in run.output
    assert "Traceback" not in run.output
    assert list(tmp_path.iterdir()) == []


def test_help_of_train_lists_the_sparse_options(tmp_path):
    run = call([command("yolov5"), "train", "--help"], tmp_path)
    for flag in (
        "--sparse-recipe RECIPE",
        "--sparse-recipe-args ARGS",
        "--sparse-hooks FILE[,FILE]",
        "--weights WEIGHTS",
    ):
        assert flag in run.output


@pytest.mark.parametrize("value", ["[1]", "[export_report, null]", "true", "{a: b}"])
def test_what_is_no_name_of_a_hook_cannot_be_disabled(tmp_path, value):
    (tmp_path / "mine.yaml").write_text(f"disable: {value}\n")
    with pytest.raises(OptionError, match=r"mine\.yaml: disable: expected names of hooks"):
        options.disabled_hooks({"YOLOV5_SPARSE_CONFIG": str(tmp_path / "mine.yaml")})


def test_a_message_names_the_config_file_that_was_read(tmp_path):
    (tmp_path / "mine.yaml").write_text("target: gpu\n")
    with pytest.raises(OptionError, match=r"mine\.yaml: target: no target 'gpu'"):
        options.resolve({}, environ={"YOLOV5_SPARSE_CONFIG": str(tmp_path / "mine.yaml")})
