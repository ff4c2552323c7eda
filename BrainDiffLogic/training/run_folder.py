"""The folder of a training run: its configuration, checkpoints that are whole, whether a run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from BrainDiffLogic.errors import InputError

LAST = "last.ckpt"
CONFIGURATION = "configuration.json"
MOST_NAMED = 4
"""Changes that a message names."""


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


def prepare(run: Path, content: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Make the folder and write ``content`` into it: all that the run, and so its card, depends on.

    free  fields that may change when a run goes on, as nothing is learned from them
    Raises InputError when it cannot be written, or holds a run with another field, which it names.
    """
    file, now = run / CONFIGURATION, json.loads(json.dumps(content))
    if (run / LAST).exists():
        before = {"optimiser": "adamw", **_read(file)}  # what runs had before there was a choice
        told = (now.keys() & before.keys()) - set(free)  # an older run may not tell some fields
        changed = [change for name in sorted(told) for change in _changes(before[name], now[name], name)]
        if changed:
            more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            what = ", another ".join(changed[:MOST_NAMED]) + more
            raise InputError(f"{run}: holds a run of another {what}; keep to its {CONFIGURATION} or give another --run")
    partial = file.with_suffix(".part")
    try:
        run.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(now, indent=1) + "\n")
        os.replace(partial, file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{run}: the run's folder cannot be written ({reason}); give another --run") from None


def _changes(before: Any, now: Any, name: str) -> Iterator[str]:
    """Where two pieces of JSON differ, with both values where they are short."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from _changes(*pair, f"{name}[{place}]")
    elif before != now:
        short = not any(isinstance(value, dict | list) for value in (before, now))
        yield f"{name} ({before}, now {now})" if short else name


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        raise InputError(f"{file}: not the configuration of a run; restore it, or give another --run") from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of a run holds: tensors and plain values; anything else in it is refused, never executed."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content


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
    state = read_checkpoint(checkpoint)["state_dict"]
    return {
        name.removeprefix("network."): value.float().contiguous()
        for name, value in state.items()
        if name.startswith("network.")
    }


def steps_done(checkpoint: str | Path) -> int:
    """The optimiser steps behind a checkpoint of ``train``."""
    return int(read_checkpoint(checkpoint)["global_step"])


def epochs_done(checkpoint: str | Path) -> int:
    """The whole epochs behind a checkpoint."""
    return int(read_checkpoint(checkpoint)["epoch"]) + 1
