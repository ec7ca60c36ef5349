"""The folder of a run: resolved configuration, state to resume from, one JSON line per epoch,
TensorBoard events."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

from utils import checkpoint
from utils.config import differences, dump_yaml
from utils.device import computes_bf16, describe
from utils.distributed import barrier, gather_objects, is_main, world_size
from utils.errors import ConfigError
from utils.files import atomic_path
from utils.settings import StudentConfig, TeacherConfig

Configuration = TypeVar("Configuration", StudentConfig, TeacherConfig)
IDENTITY, STATE = "identity.json", "state.pth"


def choose_amp(config: Configuration, device: torch.device, folder: Path) -> Configuration:
    """The configuration of the training in ``folder`` with ``train.amp=auto`` settled.

    What was chosen belongs to the run: it is recorded, and a resumed run keeps it, also on another
    device. The main process chooses for all.
    """
    if config.train.amp != "auto":
        return config
    begun = None if config.run.overwrite else read_identity(folder)
    usual = "bf16" if computes_bf16(device) else "none"
    amp = gather_objects(begun["train"]["amp"] if begun else usual)[0]
    return config.model_copy(update={"train": config.train.model_copy(update={"amp": amp})})


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the run in ``folder`` computes; None before the end of its first epoch, where it has
    nothing to lose."""
    if not (folder / IDENTITY).is_file() or not (folder / STATE).is_file():
        return None
    identity = json.loads((folder / IDENTITY).read_text())
    identity["train"].pop("cuda_graph", None)  # was a part of it once
    return identity


class Run:
    """``expt/runs/<name>/``. Only the main process writes; all processes may read.

    Args:
        inputs: hashes of what the run reads (data, bank): with other inputs it is another run.

    Raises:
        ConfigError: the folder belongs to a run of another configuration or other inputs.
    """

    def __init__(
        self, folder: Path, settings: BaseModel, inputs: dict[str, str], restart: bool = False
    ):
        self.folder = folder
        self.state_path = folder / STATE
        self.log_path = folder / "log.jsonl"
        # Where a run computes, whether it restarts and how its steps are launched are not part of
        # what it computes.
        if world_size() > 1:  # each process has dropout, perhaps batch statistics of its own
            inputs = {**inputs, "processes": str(world_size())}
        outside = {"run": True, "train": {"cuda_graph"}}
        self.identity = {**settings.model_dump(mode="json", exclude=outside), "inputs": inputs}
        barrier()
        if restart and is_main() and folder.exists():
            shutil.rmtree(folder)
        barrier()
        self._refuse_other_configuration()
        barrier()
        if is_main():
            with atomic_path(folder / "config.yaml") as temporary:
                temporary.write_text(dump_yaml(settings))
            with atomic_path(folder / IDENTITY) as temporary:
                temporary.write_text(json.dumps(self.identity, indent=1))

    def _refuse_other_configuration(self) -> None:
        begun = read_identity(self.folder)
        differing = differences(begun, self.identity) if begun else []
        if differing:
            raise ConfigError(
                f"{self.folder} holds a run of another configuration ({'; '.join(differing[:4])}); "
                "give this one another run.name=, or run.overwrite=true to throw that one away"
            )

    def load_state(self) -> dict[str, Any] | None:
        """What :meth:`save_state` wrote last, or None."""
        return checkpoint.read(self.state_path) if self.state_path.is_file() else None

    def save_state(self, state: dict[str, Any]) -> None:
        if is_main():
            checkpoint.save(self.state_path, state)

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch, dropping lines of this or a later epoch that a killed run left."""
        if not is_main():
            return
        lines = self.log_path.read_text().splitlines() if self.log_path.is_file() else []
        kept = [line for line in lines if json.loads(line)["epoch"] < record["epoch"]]
        with atomic_path(self.log_path) as temporary:
            temporary.write_text("\n".join([*kept, json.dumps(record)]) + "\n")


def training_record(
    history: dict[str, Any], config: BaseModel, split: Any, device: torch.device, **more: Any
) -> dict[str, Any]:
    """What a checkpoint says of its training, beside the configuration.

    Args:
        history: of :func:`utils.engine.fit`. split: the prepared training split.
        more: ``method``, the words of its label; ``labelled``, whether it learnt from labels;
            ``bank``, the provenance of what taught it, or None.
    """
    return {
        **more,
        "epochs": history["epoch"],
        "seconds": history["seconds"],
        "memory": history.get("memory"),
        "metrics": history["metrics"],
        "commit": history["commit"],
        "device": describe(device),
        "processes": world_size(),
        "part_names": split.part_names,
        "data_hash": split.data_hash,
        "recipe_hash": split.recipe_hash,
        "val_fraction": config.protocol.val_fraction,
        "val_seed": config.protocol.val_seed,
    }


def save_trained(
    role: str,
    name: str,
    network: nn.Module,
    heads: dict[str, dict[str, Any]],
    build: dict[str, Any],
    classes: list[str],
    config: BaseModel,
    record: dict[str, Any],
) -> None:
    """Write what a run leaves for inference to ``<checkpoints>/<role>/<name>.pth`` and say so.

    Args:
        heads: of :func:`models.objective.pack_heads`. build: arguments of the role's builder.
        record: of :func:`training_record`.
    """
    if not is_main():
        return
    path = Path(config.run.checkpoints) / role / f"{name}.pth"
    settings = config.model_dump(mode="json")
    checkpoint.save_model(path, role, network, build, classes, settings, record, heads)
    print(f"{role} written to {path}")


def source_commit() -> str:
    """Short hash of this code's commit, ``+`` behind it if files were changed, or ``unknown``."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=10", "HEAD")
        # The table of results is written by every test run and is not code.
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!expt")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
