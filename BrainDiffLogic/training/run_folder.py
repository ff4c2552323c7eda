"""The folder of a training run: its configuration, its checkpoint, whether it can go on."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import staged_output
from BrainDiffLogic.training.configuration import EpochFitting

LAST = "last.ckpt"
CONFIGURATION = "configuration.json"
REPORTING_FIELDS = ("validate_every", "images_every", "perceptual_options")
"""Fields that may change when a run goes on: what is looked at, and where a file lies that the identity knows."""
MOST_NAMED = 4
"""Changes that a message names."""


def open_run(run: Path, network: nn.Module, content: Mapping[str, Any], free: Collection[str] = ()) -> Path | None:
    """Make the folder of a run, or check that the run in it is this one; returns the checkpoint that it goes on from.

    content  all that the run, and so its card, depends on; written into the folder, once for all processes
    free     fields that may change when a run goes on, as nothing is learned from them
    Raises InputError when the folder cannot be written, its checkpoint cannot be read or is of another network, or it
    holds a run with another field, which it names.
    """
    last = last_checkpoint(run, network)
    if rank_zero_only.rank == 0:
        _prepare(run, content, free)
    return last


def open_epochs(run: Path, network: nn.Module, plan: EpochFitting, /, **more: Any) -> Path | None:
    """``open_run`` of a training that is told in epochs.

    more  what else the run depends on
    Without a decay of the rate, which is a share of all epochs, a run may be given more of them.
    """
    free = REPORTING_FIELDS if plan.decay else (*REPORTING_FIELDS, "epochs")
    return open_run(run, network, {**asdict(plan), **more}, free)


def _prepare(run: Path, content: Mapping[str, Any], free: Collection[str]) -> None:
    file, now = run / CONFIGURATION, json.loads(json.dumps(content))
    if (run / LAST).exists():
        before = {"optimiser": "adamw", **_read(file)}  # what runs had before there was a choice
        told = (now.keys() & before.keys()) - set(free)  # an older run may not tell some fields
        changed = [change for name in sorted(told) for change in _changes(before[name], now[name], name)]
        if changed:
            more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            what = ", another ".join(changed[:MOST_NAMED]) + more
            raise InputError(f"{run}: holds a run of another {what}; keep to its {CONFIGURATION} or give another --run")
    try:
        run.mkdir(parents=True, exist_ok=True)
        with staged_output(file) as staged:
            staged.write_text(json.dumps(now, indent=1) + "\n")
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


def last_checkpoint(run: Path, network: nn.Module) -> Path | None:
    """The checkpoint that a run goes on from; None for a new run.

    Raises InputError when it cannot be read, or its weights are not of ``network``.
    """
    path = run / LAST
    if not path.exists():
        return None
    try:
        state, _ = trained_state(path), steps_done(path)
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a checkpoint of a run; delete it to start the run again") from None
    expected = network.state_dict()
    if {name: value.shape for name, value in state.items()} != {name: v.shape for name, v in expected.items()}:
        raise InputError(f"{path}: the run is of another network than the configuration's; give another --run")
    return path


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
