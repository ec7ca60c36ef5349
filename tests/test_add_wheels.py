"""Packages from wheels into a folder, beside a Python that lacks them."""

import os
import subprocess
import sys
import zipfile

import pytest

from scripts import add_wheels
from utils.errors import ConfigError, DataError


def make_wheel(folder, name: str, version: str, *needs: str) -> None:
    """A package of one module without anything in it."""
    about = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    files = {
        f"{name}.py": f"version = '{version}'\n",
        f"{about}/METADATA": "\n".join(metadata + [f"Requires-Dist: {each}" for each in needs]),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """For a project that needs NumPy, pytest, which are there, and two packages that are not."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "needs.txt").write_text("numpy>=99\nlackingone>=1  # why\npytest\nlackingtwo\n")
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "lackingone", "1.5", "lackingdeep==2.0", "numpy", 'other; extra == "x"')
    make_wheel(wheels, "lackingdeep", "2.0")
    make_wheel(wheels, "lackingdeep", "3.0")
    make_wheel(wheels, "lackingtwo", "1.0")
    make_wheel(wheels, "numpy", "99.0")
    make_wheel(wheels, "pytest", "99.0")
    site = ["--target", str(tmp_path / "site")]
    return [str(wheels), *site, "--requirements", str(tmp_path / "needs.txt")]


def found(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "site").glob("*.dist-info")}


def test_only_what_is_missing_is_added_with_what_it_needs(tmp_path, arguments, capsys):
    add_wheels.main(arguments)
    assert found(tmp_path) == {
        f"{name}.dist-info" for name in ("lackingone-1.5", "lackingdeep-2.0", "lackingtwo-1.0")
    }
    check = "import lackingdeep, numpy; print(lackingdeep.version, numpy.__version__ != '99.0')"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True)
    assert done.stdout.split() == [b"2.0", b"True"]
    capsys.readouterr()
    add_wheels.main(arguments)
    assert capsys.readouterr().out.startswith("nothing added")


def test_a_missing_wheel_is_named_and_the_others_are_added(tmp_path, arguments):
    (tmp_path / "wheels" / "lackingtwo-1.0-py3-none-any.whl").unlink()
    (tmp_path / "wheels" / "lackingdeep-2.0-py3-none-any.whl").unlink()
    with pytest.raises(DataError, match=r"no wheel for lackingdeep, lackingtwo in .*wheels \(Py"):
        add_wheels.main(arguments)
    assert found(tmp_path) == {"lackingone-1.5.dist-info"}
    with pytest.raises(ConfigError, match="no folder"):
        add_wheels.main(["nowhere", "--target", str(tmp_path / "site")])
