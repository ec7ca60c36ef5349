"""Configuration: recipes, sets, parents, overrides, and errors that say what to do."""

import re
from pathlib import Path

import pytest

from utils.config import did_you_mean, differences, dump_yaml, load_config, merge, read_yaml
from utils.errors import ConfigError
from utils.settings import StudentConfig, TeacherConfig

RECIPES = sorted(path.stem for path in Path("scripts/configs/recipes").glob("*.yaml"))
SETS = sorted(path.stem for path in Path("scripts/configs/sets").glob("*.yaml"))
ENCODERS = ["pointnet", "pointnet2_ssg", "pointnet2_msg", "dgcnn", "curvenet"]
# The recipes that each set is laid over, or the set that it follows.
USED_WITH = {
    "demo": ["pointnet"],
    "demo_pixels": ["teacher_autoencoder", "teacher_partseg"],
    "demo_teacher": ["teacher"],
    "labeledpsb": [f"partseg_{encoder}" for encoder in ENCODERS],
    "labeledpsb_autoencoder": ["teacher_autoencoder"],
    "labeledpsb_teacher": ["teacher_partseg"],
    "modelnet40": ENCODERS,
    "modelnet40 modelnet40_reduced": ["pointnet"],
    "modelnet40_reduced_teacher": ["teacher"],
    "modelnet40_teacher": ["teacher"],
    "psb26": ENCODERS,
    "psb26 psb26_ablation": ["pointnet"],
    "psb26_autoencoder": ["teacher_autoencoder"],
    "psb26_teacher": ["teacher"],
}


def shipped(recipe: str, *sets: str) -> list[str]:
    files = [f"scripts/configs/recipes/{recipe}.yaml"]
    return files + [f"scripts/configs/sets/{name}.yaml" for name in sets]


def load(recipe: str, arguments: list[str]) -> StudentConfig | TeacherConfig:
    return load_config(TeacherConfig if recipe.startswith("teacher") else StudentConfig, arguments)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_leaves_the_set_open(recipe):
    assert load(recipe, [*shipped(recipe), "data.name=Some"]).data.name == "Some"
    with pytest.raises(ConfigError, match="data.name is required"):
        load(recipe, shipped(recipe))


def test_every_set_is_used():
    assert sorted(names.split()[-1] for names in USED_WITH) == SETS


@pytest.mark.parametrize(
    ("names", "recipe"), [(names, recipe) for names in USED_WITH for recipe in USED_WITH[names]]
)
def test_every_set_is_laid_over_its_recipes(names, recipe):
    files = shipped(recipe, *names.split())
    config = load(recipe, files)
    found, changes = config.model_dump(mode="json"), read_yaml(files[-1])
    assert merge(found, changes) == found  # the last file has the last word
    assert not re.search("^parent:", Path(files[-1]).read_text(), re.MULTILINE)


def test_files_are_merged_from_left_to_right(tmp_path):
    files = []
    for name, text in {
        "recipe": "data: {name: A, points: 64}\nloss: {task: 1, distill: 1}\n",
        "set": "data: {name: B}\nloss: {distill: 0.5}\n",
        "own": "data: {points: 16}\nloss: {distill: 0.25}\n",
    }.items():
        files.append(str(tmp_path / f"{name}.yaml"))
        Path(files[-1]).write_text(text)
    config = load_config(StudentConfig, ["terms.task.weight=3", *files, "data.name=C"])
    assert (config.data.name, config.data.points) == ("C", 16)
    assert config.loss == {"task": 3, "distill": 0.25}
    config = load_config(StudentConfig, [files[2], files[0], files[1]])
    assert (config.data.name, config.data.points) == ("B", 64)


def test_an_override_has_the_last_word_wherever_it_stands():
    files = shipped("pointnet", "psb26")
    for arguments in (
        ["train.epochs=7", *files],
        [files[0], "train.epochs=7", files[1]],
        [*files, "train.epochs=7"],
    ):
        assert load_config(StudentConfig, arguments).train.epochs == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found no YAML file, expected a recipe such as scripts/configs/recipes/pointnet.yaml"),
        (["data.name=A"], "found no YAML file"),
        (shipped("pointnet", "psb26")[1:], "found the set .*psb26.yaml first, expected a recipe"),
        (shipped("pointnet", "psb26")[::-1], "found the set .*psb26.yaml first, expected a recipe"),
        (
            [*shipped("pointnet", "psb26"), *shipped("dgcnn")],
            "found a recipe after a set in .*dgcnn.yaml: give recipes first",
        ),
        ([*shipped("pointnet"), *shipped("dgcnn")], "found several recipes in .*: give one"),
        (shipped("pointnet", "psb62"), "no configuration file scripts/configs/sets/psb62.yaml"),
        (["scripts/configs/psb26/pointnet.yaml"], "no configuration file.*recipes and sets"),
        ([*shipped("pointnet"), "data.name"], "no configuration file data.name: expected YAML"),
        (shipped("teacher", "psb26_teacher"), "unknown key 'teacher'"),
    ],
)
def test_files_that_are_missing_or_in_disorder(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(StudentConfig, arguments)


def test_a_set_with_a_parent_brings_its_values_along(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {name: A, points: 64}\n")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.yaml").write_text("parent: ../base.yaml\ndata: {points: 32}\n")
    arguments = [*shipped("pointnet"), str(tmp_path / "sets" / "mine.yaml")]
    config = load_config(StudentConfig, arguments)
    assert (config.data.name, config.data.points) == ("A", 32)


def test_parent_then_file_then_override(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "data: {name: A, points: 64}\nloss: {task: 1, distill: 1}\n"
    )
    (tmp_path / "child.yaml").write_text("parent: base.yaml\nloss: {distill: 0.5}\n")
    config = load_config(
        StudentConfig, [str(tmp_path / "child.yaml"), "data.points=32", "optim.lr=1e-3"]
    )
    assert (config.data.name, config.data.points) == ("A", 32)
    assert config.loss == {"task": 1, "distill": 0.5}
    assert config.optim.lr == 1e-3


def test_resolved_settings_read_back_alike(tmp_path):
    config = load_config(StudentConfig, [*shipped("pointnet2_ssg"), "data.name=A"])
    (tmp_path / "resolved.yaml").write_text(dump_yaml(config))
    assert load_config(StudentConfig, [str(tmp_path / "resolved.yaml")]) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], r"unknown key 'optim.lrr'.*did you mean 'lr'"),
        (["optimm.lr=1"], r"unknown key 'optimm'.*did you mean 'optim'"),
        (["optim.lr=fast"], r"optim.lr='fast'.*number"),
        (["train.epochs=2.5"], r"train.epochs=2.5"),
        (["train.epochs=0"], r"train.epochs=0.*greater than 0"),
        (["optim.name=sdg"], r"optim.name='sdg'"),
        (["optim.warmup_epochs=-1"], r"optim.warmup_epochs=-1"),
        (["optim.warmup_epochs=9", "train.epochs=9"], r"warmup_epochs=9 leaves nothing of train.e"),
        (["=3"], r"cannot read the override"),
        (["data.name.x=3"], r"'name' is a value"),
        (["train=3"], r"train"),
        (["run.name=../other"], r"run.name='../other'"),
        (["run.name=."], r"run.name='.'"),
        (["terms.task.weight=-1"], r"terms.task.weight=-1"),
        (["protocol.val_fraction=1"], r"val_fraction"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(StudentConfig, [*shipped("pointnet"), "data.name=A", *arguments])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(tmp_path / "broken.yaml")
    (tmp_path / "self.yaml").write_text("parent: self.yaml\n")
    with pytest.raises(ConfigError, match="ancestor"):
        read_yaml(tmp_path / "self.yaml")


def test_differences_name_nested_keys():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == [
        "a.b: found 1, expected 3"
    ]
    assert did_you_mean("pointnett", ["pointnet", "dgcnn"]) == "; did you mean 'pointnet'?"
    assert did_you_mean("zzz", ["pointnet"]) == ""


def test_help_lists_every_key_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(StudentConfig, ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: RECIPE.yaml [SET.yaml ...] [group.key=value ...]")
    assert "data.name=(required)" in shown
    assert "  terms.alignment.distance=l1" in shown and "  init=None" in shown


def test_a_file_may_lie_in_a_folder_with_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b" / "mine.yaml").write_text("data: {name: A}\ntrain: {epochs: 7}\n")
    config = load_config(StudentConfig, [str(tmp_path / "a=b" / "mine.yaml"), "init=a/b=c.pth"])
    assert (config.train.epochs, config.init) == (7, "a/b=c.pth")
