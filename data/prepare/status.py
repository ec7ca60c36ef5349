"""The folder of a set: finished, begun or to be begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from data.prepare.pack import REPORT
from data.storage import SPLITS, PreparedSplit
from utils.errors import ConfigError, DataError

WORK = ".work"  # in the set's folder until it is finished


def find_finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a finished set with these settings, None where there is no finished set.

    Raises:
        ConfigError: the folder holds a set with other settings, or files of unknown settings.
        DataError: the set is damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        if not (folder / WORK).is_dir() and any((folder / f"{s}.h5").exists() for s in SPLITS):
            raise ConfigError(
                f"{folder} holds splits but no {REPORT}, so nobody knows how they were made; give "
                "--overwrite to replace them or another --name"
            )
        return None
    try:
        report = json.loads(path.read_text())
        found = dict(report["settings"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); --overwrite makes the set anew") from error
    if differences := find_differences(found, settings):
        raise ConfigError(
            f"{folder} was prepared with other settings: {differences}; give --overwrite to make "
            "it anew or another --name"
        )
    for split in SPLITS:
        if not (folder / f"{split}.h5").is_file():
            raise DataError(f"{folder} has lost its {split}.h5; --overwrite makes the set anew")
        PreparedSplit(folder / f"{split}.h5")
    return report


def find_differences(found: dict[str, Any], settings: dict[str, Any]) -> str:
    """The settings that were others when something was made, as a list in words; "" for none."""
    return ", ".join(
        f"{key} {found.get(key)!r} (now {settings[key]!r})"
        for key in settings
        if found.get(key) != settings[key]
    )


def start_anew(folder: Path) -> None:
    """Leave a set's folder with an empty work folder and nothing else of ours."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / REPORT).unlink(missing_ok=True)
    (folder / WORK).mkdir(parents=True)
    for split in SPLITS:
        (folder / f"{split}.h5").unlink(missing_ok=True)


def clear_up(folder: Path) -> None:
    """Remove the work folder, and temporary files of runs that were killed while writing."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for leftover in folder.glob(".*.tmp.*"):
        leftover.unlink(missing_ok=True)  # by another process of the same run


def describe(report: dict[str, Any], folder: Path) -> str:
    """The counts of a report as the end of a sentence."""
    train, test = (report["prepared"][split] for split in SPLITS)
    settings = report["settings"]
    noun = f"clouds of {settings['points']:,} points" if "clouds" in settings else "meshes"
    notes = f"skipped {len(report['skipped'])}"
    if "filled_up" in report:
        notes += f", {report['filled_up']:,} with fewer points repeat some"
    absent = [name for name, counts in report["classes"].items() if not any(counts.values())]
    if absent:
        notes += f", nothing of the classes {', '.join(absent)}"
    return (
        f"{train + test:,} of {report['found']:,} {noun} into {folder} ({train:,} train / "
        f"{test:,} test), {notes}: see {folder / REPORT}"
    )
