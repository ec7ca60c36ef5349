"""Write the embedded shapes as meshes: ``python -m data.synthetic FOLDER``."""

from __future__ import annotations

import utils.startup  # noqa: F401

import argparse
from pathlib import Path

from data.synthetic.shapes import CLASSES, generate
from utils.errors import run_main


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic", description="Generate the embedded shapes as OFF meshes."
    )
    parser.add_argument("folder", type=Path, help="where the class folders go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=20, help="training shapes per class")
    parser.add_argument("--test", type=int, default=10, help="test shapes per class")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    generate(options.folder, options.seed, options.train, options.test)
    total = len(CLASSES) * (options.train + options.test)
    print(f"{total} shapes of {len(CLASSES)} classes in {options.folder}")


if __name__ == "__main__":
    run_main(main)
