"""Turn a folder of meshes, or the embedded shapes, into a prepared set: ``data/NAME/``.

    python -m data.prepare SOURCE --name NAME [--up y] [--recipe ring12] ...
    python -m data.prepare --shapes

Interrupted, the same command goes on and ends with the same bytes. See data/README.md for the
layouts that are read and the files that are written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from data import shapes
from data.cameras import RIGS, describe_recipe, find_rig, hash_recipe, make_cameras
from data.meshes import UP_AXES
from data.render import RENDERER, SHADINGS
from data.sources import MeshFile, Source, find_meshes, group_by_class
from data.split_writer import ShapeRecord, SplitHeader, write_split
from data.storage import SPLITS, VERSION, PreparedSplit
from data.work import ShapeSettings, record_path, run_work
from utils.errors import ConfigError, DataError, run_main
from utils.files import atomic_path

WORK = ".work"
REPORT = "report.json"


class Preparation:
    """One set on its way from meshes to files.

    Args:
        folder: of the set, ``data/NAME``; the set is named after it.
        settings: what each mesh becomes.
        meshes: of the source, read only. origin: what to call the source in the files.
        test_fraction: for a source without train and test folders.
    """

    def __init__(
        self, folder: Path, settings: ShapeSettings, meshes: Path, origin: str, test_fraction: float
    ):
        self.folder = folder
        self.shape_settings = settings
        self.origin = origin
        self.source: Source = find_meshes(meshes, test_fraction, settings.seed)
        self.records = folder / WORK / "records"
        self.settings: dict[str, Any] = {
            **asdict(settings),
            "source": origin,
            "meshes": self.source.fingerprint(),
            "test_fraction": None if self.source.is_split else test_fraction,
            "version": VERSION,
            "renderer": RENDERER,
        }
