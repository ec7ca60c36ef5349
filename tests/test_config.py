"""Configuration: parents, overrides, and errors that say what to do."""

from pathlib import Path

import pytest

from utils.config import did_you_mean, differences, dump_yaml, load_config, read_yaml
from utils.errors import ConfigError
from utils.settings import StudentConfig, TeacherConfig

CONFIGS = sorted(Path("scripts/configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_shipped_file_is_valid(path):
    schema = TeacherConfig if path.stem.startswith("teacher") else StudentConfig
    config = load_config(schema, [str(path), "data.name=Some"])
    assert config.data.name


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
    config = load_config(StudentConfig, ["scripts/configs/pointnet2_ssg.yaml", "data.name=A"])
    (tmp_path / "resolved.yaml").write_text(dump_yaml(config))
    assert load_config(StudentConfig, [str(tmp_path / "resolved.yaml")]) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lrr=1"], r"unknown key 'optim.lrr'.*did you mean 'lr'"),
        (["optimm.lr=1"], r"unknown key 'optimm'.*did you mean 'optim'"),
        (["optim.lr=fast"], r"optim.lr='fast'.*number"),
        (["train.epochs=2.5"], r"train.epochs=2.5"),
        (["train.epochs=0"], r"train.epochs=0.*greater than 0"),
        (["optim.name=sdg"], r"optim.name='sdg'"),
        (["data.name"], r"one YAML file"),
        (["=3"], r"cannot read the override"),
        (["data.name.x=3"], r"'name' is a value"),
        (["train=3"], r"train"),
        (["run.name=../other"], r"run.name='../other'"),
        (["run.name=."], r"run.name='.'"),
        (["loss.task=-1"], r"loss.task=-1"),
        (["protocol.val_fraction=1"], r"val_fraction"),
    ],
)
def test_bad_words_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(StudentConfig, ["scripts/configs/pointnet.yaml", "data.name=A", *words])


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


def test_a_configuration_file_is_required():
    with pytest.raises(ConfigError, match="scripts/configs"):
        load_config(StudentConfig, ["data.name=A"])


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
    assert "data.name=(required)" in shown
    assert "  distill.distance=l1" in shown and "  init=None" in shown
