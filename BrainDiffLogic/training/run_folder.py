"""The folder of a training run: its configuration, checkpoints that are whole, whether a run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from BrainDiffLogic.errors import InputError

LAST = "last.ckpt"
CONFIGURATION = "configuration.json"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then moves it: a run killed meanwhile keeps the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, whole or not at all."""
        partial = f"{path}.part"
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def prepare(run: Path, content: dict[str, Any], same: Sequence[str] = ("family", "network")) -> None:
    """Make the folder and write ``content``, the configuration with the network's arguments, into it.

    same  fields that a run which goes on must not change
    Raises InputError when it cannot be written, or holds a run of another network.
    """
    file = run / CONFIGURATION
    if (run / LAST).exists() and file.exists():
        before = {"optimiser": "adamw", **_read(file)}  # what runs had before there was a choice
        for name in same:
            if before.get(name) != json.loads(json.dumps(content[name])):
                raise InputError(f"{run}: holds a run of another {name} ({CONFIGURATION}); give another --run")
    partial = file.with_suffix(".part")
    try:
        run.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{run}: the run's folder cannot be written ({reason}); give another --run") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except ValueError:
        raise InputError(f"{file}: not the configuration of a run; give another --run") from None


def last_checkpoint(run: Path, network: nn.Module) -> tuple[Path | None, int]:
    """The checkpoint a run goes on from and the steps it has done; (None, 0) for a new run.

    Raises InputError when it cannot be read, or its weights are not of ``network``.
    """
    path = run / LAST
    if not path.exists():
        return None, 0
    try:
        state, done = trained_state(path), steps_done(path)
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a checkpoint of a run; delete it to start the run again") from None
    expected = network.state_dict()
    if {name: value.shape for name, value in state.items()} != {name: v.shape for name, v in expected.items()}:
        raise InputError(f"{path}: the run is of another network than the configuration's; give another --run")
    return path, done


def trained_state(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The averaged weights of the network in a checkpoint of ``train``, by the network's own names."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    return {
        name.removeprefix("network."): value.float().contiguous()
        for name, value in state.items()
        if name.startswith("network.")
    }


def steps_done(checkpoint: str | Path) -> int:
    """The optimiser steps behind a checkpoint of ``train``."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"])


def epochs_done(checkpoint: str | Path) -> int:
    """The whole epochs behind a checkpoint."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["epoch"]) + 1
