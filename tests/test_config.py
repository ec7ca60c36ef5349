"""Configuration: recipes, sets, parents, overrides, and errors that say what to do."""

import re
from pathlib import Path

import pytest

from models.terms import teacher_schema, with_terms
from utils.config import (
    RENAMED,
    describe_keys,
    did_you_mean,
    differences,
    dump_yaml,
    load_config,
    merge,
    read_yaml,
)
from utils.errors import ConfigError
from utils.settings import GeneratorConfig, StudentConfig, TeacherConfig

STUDENT, TEACHER = with_terms(StudentConfig), with_terms(TeacherConfig)
RECIPES = sorted(path.stem for path in Path("scripts/configs/recipes").glob("*.yaml"))
SETS = sorted(path.stem for path in Path("scripts/configs/sets").glob("*.yaml"))
SEGMENTERS = ["pointnet", "pointnet2_ssg", "pointnet2_msg", "dgcnn", "curvenet"]
ENCODERS = [*SEGMENTERS, "pointmlp", "pointmlp_elite", "pointnext_s"]
# The recipes that each set is laid over, or the set that it follows.
USED_WITH = {
    "demo": ["pointnet"],
    "demo_pixels": ["teacher_autoencoder", "teacher_partseg"],
    "demo_teacher": ["teacher"],
    "labeledpsb": [f"partseg_{encoder}" for encoder in SEGMENTERS],
    "labeledpsb_autoencoder": ["teacher_autoencoder"],
    "labeledpsb_teacher": ["teacher_partseg"],
    "psb26 logits": ENCODERS,
    "modelnet40": ENCODERS,
    "modelnet40 modelnet40_reduced": ["pointnet"],
    "modelnet40_reduced_teacher": ["teacher"],
    "modelnet40_teacher": ["teacher", "pointcmt_teacher"],
    "psb26 pointcmt": ENCODERS,
    "psb26": ENCODERS,
    "psb26 psb26_ablation": ["pointnet"],
    "psb26_autoencoder": ["teacher_autoencoder"],
    "psb26_teacher": ["teacher"],
    "psb26 similarity": ENCODERS,
}


def shipped(recipe: str, *sets: str) -> list[str]:
    files = [f"scripts/configs/recipes/{recipe}.yaml"]
    return files + [f"scripts/configs/sets/{name}.yaml" for name in sets]


def load(recipe: str, arguments: list[str]) -> StudentConfig | TeacherConfig | GeneratorConfig:
    of_teacher = recipe.startswith(("teacher", "pointcmt_"))
    return load_config(teacher_schema if of_teacher else STUDENT, arguments)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_leaves_the_set_open(recipe):
    bank = ["targets.bank=a.h5"] if recipe == "pointcmt_generator" else []
    assert load(recipe, [*shipped(recipe), *bank, "data.name=Some"]).data.name == "Some"
    with pytest.raises(ConfigError, match="data.name is required"):
        load(recipe, [*shipped(recipe), *bank])


def test_every_set_is_used():
    assert sorted(names.split()[-1] for names in USED_WITH) == SETS


@pytest.mark.parametrize(
    ("names", "recipe"), [(names, recipe) for names in USED_WITH for recipe in USED_WITH[names]]
)
def test_every_set_is_laid_over_its_recipes(names, recipe):
    files = shipped(recipe, *names.split())
    config = load(recipe, files)
    found, changes = config.model_dump(mode="json"), read_yaml(files[-1])
    terms = changes.get("terms", {})
    left_out = {term for term, options in terms.items() if options.get("weight") == 0}
    assert not left_out & found["terms"].keys()
    changes |= {"terms": {term: terms[term] for term in terms.keys() - left_out}}
    assert merge(found, changes) == found  # the last file has the last word
    assert not re.search("^parent:", Path(files[-1]).read_text(), re.MULTILINE)


def test_files_are_merged_from_left_to_right(tmp_path):
    files = []
    for name, text in {
        "recipe": "data: {name: A, points: 64}\nterms: {alignment: {weight: 1}}\n",
        "set": "data: {name: B}\nterms: {alignment: {weight: 0.5}}\n",
        "own": "data: {points: 16}\nterms: {alignment: {weight: 0.25}}\n",
    }.items():
        files.append(str(tmp_path / f"{name}.yaml"))
        Path(files[-1]).write_text(text)
    config = load_config(STUDENT, ["terms.task.weight=3", *files, "data.name=C"])
    assert (config.data.name, config.data.points) == ("C", 16)
    assert (config.terms.task.weight, config.terms.alignment.weight) == (3, 0.25)
    config = load_config(STUDENT, [files[2], files[0], files[1]])
    assert (config.data.name, config.data.points) == ("B", 64)


def test_an_override_has_the_last_word_wherever_it_stands():
    files = shipped("pointnet", "psb26")
    for arguments in (
        ["train.epochs=7", *files],
        [files[0], "train.epochs=7", files[1]],
        [*files, "train.epochs=7"],
    ):
        assert load_config(STUDENT, arguments).train.epochs == 7


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
        load_config(STUDENT, arguments)


def test_a_set_with_a_parent_brings_its_values_along(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {name: A, points: 64}\n")
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.yaml").write_text("parent: ../base.yaml\ndata: {points: 32}\n")
    arguments = [*shipped("pointnet"), str(tmp_path / "sets" / "mine.yaml")]
    config = load_config(STUDENT, arguments)
    assert (config.data.name, config.data.points) == ("A", 32)


def test_parent_then_file_then_override(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "data: {name: A, points: 64}\nterms: {task: {weight: 1}, alignment: {weight: 1}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "parent: base.yaml\nterms: {alignment: {weight: 0.5, distance: l2}}\n"
    )
    config = load_config(STUDENT, [str(tmp_path / "child.yaml"), "data.points=32", "optim.lr=1e-3"])
    assert (config.data.name, config.data.points) == ("A", 32)
    assert (config.terms.task.weight, config.terms.alignment.weight) == (1, 0.5)
    assert (config.terms.alignment.distance, config.terms.alignment.pooling) == ("l2", "visible")
    assert config.optim.lr == 1e-3


def test_resolved_settings_read_back_alike(tmp_path):
    config = load_config(STUDENT, [*shipped("pointnet2_ssg"), "data.name=A"])
    (tmp_path / "resolved.yaml").write_text(dump_yaml(config))
    assert load_config(STUDENT, [str(tmp_path / "resolved.yaml")]) == config


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
        load_config(STUDENT, [*shipped("pointnet"), "data.name=A", *arguments])


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
        load_config(STUDENT, ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: RECIPE.yaml [SET.yaml ...] [group.key=value ...]")
    assert "data.name=(required)" in shown
    assert "  terms.alignment.distance=l1" in shown and "  init=None" in shown


def test_a_file_may_lie_in_a_folder_with_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "a=b" / "mine.yaml").write_text("data: {name: A}\ntrain: {epochs: 7}\n")
    config = load_config(STUDENT, [str(tmp_path / "a=b" / "mine.yaml"), "init=a/b=c.pth"])
    assert (config.train.epochs, config.init) == (7, "a/b=c.pth")


@pytest.mark.parametrize("old", RENAMED)
def test_keys_of_earlier_versions_name_their_successor(old):
    """In a file, where they stand in groups, as on the command line."""
    schema, recipe = (
        (TEACHER, "teacher")
        if old in ("loss.pixel", "loss.shape", "loss.view", "teacher.smoothing")
        else (STUDENT, "pointnet")
    )
    said = re.escape(f"{old} is called {RENAMED[old]} now")
    with pytest.raises(ConfigError, match=f"^{said}$"):
        load_config(schema, [*shipped(recipe), "data.name=A", f"{old}=1"])
    known = {line.strip().partition("=")[0] for line in describe_keys(schema).splitlines()}
    assert set(re.split(" or | and ", RENAMED[old])) <= known


def test_a_whole_group_of_earlier_keys_is_named(tmp_path):
    (tmp_path / "old.yaml").write_text("loss: {task: 0.1, distill: 1.0}\noptim: {clip: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(STUDENT, [*shipped("pointnet", "psb26"), str(tmp_path / "old.yaml")])
    assert str(caught.value) == (
        "optim.clip is called optim.clip_grad now; loss.task is called terms.task.weight now, "
        "loss.distill is called terms.alignment.weight now"
    )


def test_terms_are_checked_like_all_keys():
    arguments = [*shipped("pointnet"), "data.name=A"]
    for word, said in {
        "terms.alignmnt.weight=1": "unknown key 'terms.alignmnt'.*did you mean 'alignment'",
        "terms.alignment.poling=global": "unknown key 'terms.alignment.poling'.*mean 'pooling'",
        "terms.task.pooling=global": "unknown key 'terms.task.pooling', known here: .*smoothing",
        "terms.views.weight=1": "unknown key 'terms.views'",  # of teachers
        "terms.task.smoothing=1": "terms.task.smoothing=1: input should be less than 1",
        "terms.alignment.distance=l3": "terms.alignment.distance='l3': input should be 'l1'",
        "terms.task=0.1": "terms.task=0.1: input should be a valid dictionary",
        "targets.shuffle=some": "targets.shuffle='some': input should be 'none', 'all' or 'class'",
        "method=my method": "method='my method'",
    }.items():
        with pytest.raises(ConfigError, match=said):
            load_config(STUDENT, [*arguments, word])
    with pytest.raises(ConfigError, match="unknown key 'terms.alignment'"):
        load_config(TEACHER, [*shipped("teacher"), "data.name=A", "terms.alignment.weight=1"])


def test_only_terms_in_force_are_recorded():
    """So that a new term does not make every run another one."""
    arguments = [*shipped("pointnet"), "data.name=A", "terms.alignment.weight=0"]
    recorded = load_config(STUDENT, arguments).model_dump(mode="json")["terms"]
    assert recorded == {"transform": {"weight": 0.001}, "task": {"weight": 0.1, "smoothing": 0.2}}
