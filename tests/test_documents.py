"""The documents: their commands through the real parsers; files, links and keys that they name."""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from parse_line import parse_line

from models.terms import teacher_schema, with_terms
from utils.config import load_config
from utils.errors import ConfigError
from utils.settings import StudentConfig, TeacherConfig

RECIPES = {"pointnet": with_terms(StudentConfig), "teacher": with_terms(TeacherConfig)}
RECIPES["pointcmt_generator"] = teacher_schema
MADE_UP = {"encoders/mynet.py", "scripts/configs/recipes/mynet.yaml", "terms/mine.py"}
MADE_UP |= {"group.key=value"}
SUFFIXES = (".py", ".sh", ".yaml", ".md", ".toml", ".png")
README_LINES = 180


def tracked(*patterns: str) -> list[str]:
    """Files of the project, also those that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


FILES = tracked()
DOCUMENTS = [name for name in FILES if name.endswith(".md")]
every_document = pytest.mark.parametrize("document", DOCUMENTS)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(document: str | Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def split_commands(block: str) -> list[list[str]]:
    """The commands of a block as lists of words, without comments; ``&&`` separates commands."""
    commands = []
    for line in block.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                commands.append(words)
                words = []
    return commands


COMMANDS = [
    pytest.param(words, id=f"{document}: {shlex.join(words)}")
    for document in DOCUMENTS
    for block in blocks((ROOT / document).read_text(), "bash")
    for words in split_commands(block)
]
# a table script with variables before it also stands in the prose
COMMANDS += [
    pytest.param(shlex.split(span), id=f"{document}, in prose: {span}")
    for document in DOCUMENTS
    for span in re.findall(r"`((?:\w+=\S+ )*bash scripts/[^`]+)`", prose(document))
]


def check(words: list[str], folder: Path) -> None:
    """Hand a command to the parser of its program, and run nothing."""
    variables = {}
    while re.match(r"[A-Z][A-Z_0-9]*=", words[0]):
        name, variables[name] = words[0].partition("=")[::2]
        words = words[1:]
    program, *arguments = words
    assert not variables or program == "bash", f"{program} reads no {', '.join(variables)}"
    if program == "torchrun":
        run = importlib.import_module("torch.distributed.run").parse_args(arguments)
        program, arguments = "python", [run.training_script, *run.training_script_args]
    if program == "python" and arguments[0] == "-m" and arguments[1] in ("pytest", "dask"):
        program, *arguments = arguments[1:]
    if program == "python":
        check_program(arguments)
    elif program == "pytest":
        check_pytest(arguments, folder)
    elif program == "bash":
        check_script(arguments, variables, folder)
    elif program == "dask":
        check_dask(*arguments)
    else:
        assert program == "pip", f"no parser of {program} is known here: {shlex.join(words)}"
        assert arguments[0] in ("install", "download")
        named = {
            after for flag, after in zip(arguments, arguments[1:], strict=False) if flag == "-r"
        }
        assert named <= set(FILES)


def check_program(line: list[str]) -> None:
    if line[0] == "-m" and (ROOT / line[1].replace(".", "/")).is_dir():
        importlib.import_module(f"{line[1]}.__main__").parse(line[2:])
    elif not {"-h", "--help"} & set(line):
        parse_line(line)
    else:
        with pytest.raises(SystemExit) as ended:
            parse_line(line)
        assert ended.value.code == 0


def check_pytest(arguments: list[str], folder: Path) -> None:
    """Options by pytest itself, in an empty folder; words after -m are registered markers."""
    if "-n" in arguments:
        pytest.importorskip("xdist")
    with contextlib.chdir(folder):
        # without what the outer pytest has set up, and without a collection of garbage at the end
        without = ("-p", "no:faulthandler", "-p", "no:unraisableexception")
        done = pytest.main([*arguments, "--noconftest", "--collect-only", *without])
    assert done == pytest.ExitCode.NO_TESTS_COLLECTED
    settings = (ROOT / "pyproject.toml").read_text()
    for flag, expression in zip(arguments, arguments[1:], strict=False):
        words = set(re.findall(r"\w+", expression)) - {"or", "and", "not"} if flag == "-m" else ()
        assert all(f'"{word}:' in settings for word in words), f"unknown marker in {expression}"


def check_script(arguments: list[str], variables: dict[str, str], folder: Path) -> None:
    """It exists, it or what it sources reads the variables, and a dry run takes them."""
    name, *rest = arguments
    script = ROOT / name
    assert name in FILES, f"there is no {name}"
    text = script.read_text()
    sourced = re.findall(r"^source (scripts/\w+\.sh)", text, re.MULTILINE)
    text += "".join((ROOT / path).read_text() for path in sourced)
    for variable in variables:
        assert re.search(rf"\b{variable}\b", text), f"{name} reads no {variable}"
    if rest:
        assert f"bash {name} " in text, f"{name} takes no argument"
        importlib.import_module("data.prepare.__main__").parse(["X", "--name", "X", *rest[1:]])
    elif "DRY" in text:
        places = {"RESULTS": str(folder / "results.csv"), "LOGS": str(folder), "PYTHON": "python"}
        environment = os.environ | places | variables | {"DRY": "1"}
        done = subprocess.run(
            ["bash", name], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "python " in done.stdout


def check_dask(command: str, *arguments: str) -> None:
    program = pytest.importorskip(f"distributed.cli.dask_{command}")
    program.main.make_context(f"dask {command}", list(arguments))


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_parsed(words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(words, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "python train_student.py scripts/configs/recipes/dgcnn.yaml data.nam=Mine",
        "python train_student.py scripts/configs/recipes/dgcn.yaml data.name=Mine",
        "python test.py ckpt/student/a.pth --probes svm",
        "python tets.py ckpt/student/a.pth",
        "python -m data.prepare MESHES --name Mine --shard 1/2",
        "python -m data.synthetic",
        "torchrun --nproc_per_nod=4 train_student.py scripts/configs/recipes/dgcnn.yaml",
        "python -m pytest --slwo",
        "python -m pytest -m slwo",
        "bash scripts/table_psb27.sh",
        "JOSB=1 bash scripts/table_psb26.sh",
        "ENCODERS=pointnetto bash scripts/table_psb26.sh",
        "bash scripts/table_psb26.sh PSB26.tar.xz",
        "bash scripts/prepare_psb26.sh PSB26.tar.xz --imagesize 3",
        "python -m dask worker tcp://HOST:8786 --nthread 1",
        "pip install -r requirement.txt",
        "make all",
    ],
)
def test_wrong_commands_are_found(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    click = pytest.importorskip("click") if "dask" in command else None
    refused = (click.UsageError,) if click else ()
    refused += (AssertionError, ConfigError, ModuleNotFoundError, SystemExit)
    with pytest.raises(refused):
        check(shlex.split(command), tmp_path)


def test_commands_are_split_as_a_shell_does():
    block = "pip install x && bash a.sh  # one\n# none\n\npython b.py \\\n    'c d' e=1\n"
    expected = [["pip", "install", "x"], ["bash", "a.sh"], ["python", "b.py", "c d", "e=1"]]
    assert split_commands(block) == expected


@every_document
def test_python_blocks_import_what_there_is(document):
    for block in blocks((ROOT / document).read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


@every_document
def test_keys_are_those_of_the_settings(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    keys = re.findall(r"`(\w+\.\w+=[^`\s]+)`", prose(document))
    assert {key for key in keys if not is_setting(key)} <= MADE_UP


def is_setting(override: str) -> bool:
    for recipe, schema in RECIPES.items():
        try:
            files = [f"scripts/configs/recipes/{recipe}.yaml"]
            bank = ["targets.bank=a.h5"] if schema is teacher_schema else []
            load_config(schema, [*files, "data.name=X", *bank, override])
            return True
        except ConfigError:
            continue
    return False


def test_a_wrong_key_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert is_setting("teacher.weights=none") and is_setting("targets.views=4")
    assert not is_setting("train.apm=bf16") and not is_setting("train.epochs=many")


def expand(name: str) -> list[str]:
    """``a{b,c}d`` -> ``abd``, ``acd``."""
    found = re.fullmatch(r"([^{]*)\{([^}]*)\}(.*)", name)
    if not found:
        return [name]
    return [whole for part in found[2].split(",") for whole in expand(found[1] + part + found[3])]


def is_here(name: str) -> bool:
    """Whether a file or, with a slash at its end, a folder is in the project, from its root or
    from any folder; ``*`` stands for anything."""
    ending = "*" if name.endswith("/") else ""
    patterns = (name + ending, f"*/{name}{ending}")
    return any(fnmatch.fnmatchcase(file, pattern) for file in FILES for pattern in patterns)


@every_document
def test_files_that_are_named_exist(document):
    spans = re.findall(r"`([\w./{},*-]+)`", prose(document))
    code = [span for span in spans if span.endswith(SUFFIXES) and not is_product(span)]
    code += [span for span in spans if span.endswith("/") and not is_product(span)]
    absent = [name for span in code for name in expand(span) if not is_here(name)]
    assert set(absent) <= MADE_UP


def is_product(name: str) -> bool:
    """Whether runs write it: folders of results, and sets, which begin with a capital here."""
    return bool(
        re.match(
            r"(expt|ckpt|runs|teacher|student|pictures|demo|logs)/|data/[A-Z]|config.yaml", name
        )
    )


def test_a_wrong_file_is_found():
    assert is_here("data/geometry/") and is_here("rays.py") and is_here("sets/*_teacher.yaml")
    assert not is_here("data/geometrie/") and not is_here("ray.py") and not is_here("sets/x*.yaml")
    assert expand("sets/{a,b}.yaml") == ["sets/a.yaml", "sets/b.yaml"]


def anchors(document: Path) -> set[str]:
    """Of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@every_document
def test_links_lead_somewhere(document):
    assert broken_links(ROOT / document) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# A title, long\n[a](#a-title-long) [b](b.md) [c](#d)\n")
    assert broken_links(tmp_path / "a.md") == ["b.md", "#d"]


def test_the_readme_is_short_and_sets_up_in_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    installing = [block.strip() for block in blocks(text, "bash") if block.startswith("pip ")]
    assert installing == [
        "pip install -r requirements.txt && bash scripts/demo.sh",
        "pip install -r requirements.txt pytest pytest-xdist && python -m pytest -n 2",
    ]


def test_the_layout_of_the_readme_is_that_of_the_tree():
    layout = blocks((ROOT / "README.md").read_text().partition("## Layout")[2], "")[0]
    above = ""
    for line in layout.splitlines():
        name = line.split()[0]
        path = above + name if line.startswith(" ") else name
        above = above if line.startswith(" ") else name
        assert (ROOT / path).exists(), path
    folders = {Path(file).parent for file in FILES if file.endswith("__init__.py")}
    rooms = {folder.name for folder in folders if len(folder.parts) <= 2}
    rooms -= {"benchmarks", "reference"}  # scripts/README.md has them
    assert {room for room in rooms if f"{room}/" not in layout} == set()


def test_the_networks_that_fit_are_known_to_timm():
    """With the width and the side that the document says, or its release with another."""
    timm = pytest.importorskip("timm")
    text = (ROOT / "scripts" / "README.md").read_text()
    rows = re.findall(r"^  \| (?:DINOv2|CLIP|SigLIP|) ?\| (`.*`) \| (\d+) \| (\d+) \|$", text, re.M)
    names = [(name, *map(int, row[1:])) for row in rows for name in re.findall("`(.*?)`", row[0])]
    assert len(names) == 9
    for name, channels, side in names:
        with torch.device("meta"):  # nothing is computed
            network = timm.create_model(name, num_classes=0)
        release = network.pretrained_cfg
        assert release["tag"] == name.partition(".")[2]
        assert (network.head_hidden_size, release["input_size"][-1]) == (channels, side), name
