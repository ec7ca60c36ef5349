"""Put packages that this project needs and this Python lacks into a folder: from wheels, offline.

    python -m scripts.add_wheels WHEELS --target SITE && PYTHONPATH=SITE python ...

Only packages that are missing go to SITE, and what those need in turn; what is installed stays as
it is. PyTorch, Triton and NumPy, which fit the driver and one another, are never added. What has no
wheel is named in one line, after the others were added.
"""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
import importlib
import platform
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

# pip is needed anyway, and brings these; a bare Python has no other copy
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

from utils.errors import ConfigError, DataError, RunError, run_main

KEPT = {"torch", "torchvision", "triton", "numpy"}
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
NO_WHEEL = re.compile(r"No matching distribution found for ([\w.-]+)")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheels", type=Path, help="folder of wheels")
    parser.add_argument("--target", type=Path, required=True, help="folder that is to hold them")
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS)
    parser.add_argument("--also", nargs="*", default=["pytest"], help="more of them (pytest)")
    return parser.parse_args(arguments)


def read_requirements(path: Path) -> list[Requirement]:
    """Those of a file with one on a line and comments behind ``#``."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def lacking(wanted: list[Requirement], site: Path) -> list[Requirement]:
    """What is not there: of ``wanted``, and of what the packages in ``site`` need themselves, of
    these also what is there in a version that they do not take."""
    found: dict[str, Requirement] = {}
    seen: set[str] = set()
    waiting = [(requirement, False) for requirement in wanted]
    while waiting:
        requirement, exact = waiting.pop()
        name, marker = canonicalize_name(requirement.name), requirement.marker
        if name in KEPT or (marker and not marker.evaluate({"extra": ""})):
            continue
        there = find(name)
        fits = there and requirement.specifier.contains(there.version, prereleases=True)
        if there is None or (exact and not fits):
            found[name] = requirement
        elif name not in seen and Path(str(there.locate_file(""))) == site:
            waiting += [(Requirement(line), True) for line in there.requires or []]
        seen.add(name)
    return list(found.values())


def install(requirements: list[Requirement], wheels: Path, site: Path) -> list[str]:
    """Install what has a wheel; the names of the others.

    Raises:
        RunError: pip failed for another reason.
    """
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
    command += ["--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--target", str(site)]
    words = {each.name: f"{each.name}{each.specifier}" for each in requirements}
    absent = []
    while words:
        pip = [*command, *words.values()]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        missing = NO_WHEEL.search(done.stderr)
        if missing is None or missing[1] not in words:
            raise RunError(f"pip could not install {', '.join(words)}: {done.stderr.strip()}")
        absent.append(missing[1])
        del words[missing[1]]
    importlib.invalidate_caches()
    return absent


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    site = options.target.resolve()
    if not options.wheels.is_dir():
        raise ConfigError(f"no folder {options.wheels}, expected one of wheels")
    wanted = read_requirements(options.requirements) + [Requirement(word) for word in options.also]
    sys.path.insert(0, str(site))  # where distributions are looked for
    absent: set[str] = set()
    added = []
    while True:
        needed = [each for each in lacking(wanted, site) if each.name not in absent]
        if not needed:
            break
        absent |= set(install(needed, options.wheels, site))
        added += [each.name for each in needed if each.name not in absent]
    print(f"added {', '.join(added)} to {site}" if added else f"nothing added to {site}")
    if absent:
        python = f"Python {platform.python_version()} on {platform.machine()}"
        raise DataError(f"no wheel for {', '.join(sorted(absent))} in {options.wheels} ({python})")


if __name__ == "__main__":
    run_main(main)
