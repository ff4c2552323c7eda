"""Quiet still heads in one small file, and on the device."""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_simulation import Base

HELD_OUT = ("ds000011-10", "ds002748-46", "niivue-brainmask")
"""Of the people to train on, those that the curve is measured on."""
UNIT, TRACES, TRACE_POSES = 100.0, (240, 24), 256
"""Stored grey values of 1 (what rounding adds is a third of the noise that counts as quiet); recorded trajectories to
train on and to validate on, and of how many poses."""
MARGIN_MM = 12.0
"""Of air around a map of labels, as scans have in ``training.pairs``."""
LARGEST = {"head": 2.5e6, "brain": 2.5e6, "labels": 6e5}
"""Bytes: none is larger in the pack."""


def on_device(pack: dict[str, Any], device: torch.device) -> list[Base]:
    """The heads of a pack."""
    return [
        Base(
            torch.as_tensor(array, device=device), torch.as_tensor(mask, device=device), UNIT,
            np.array(facts["spacing"]), np.array(facts["centre"]), tuple(facts["ends"]),
        )
        for facts, array, mask in zip(pack["facts"], pack["arrays"], pack["masks"], strict=True)
    ]  # fmt: skip


def read_pack(path: Path) -> dict[str, Any]:
    """Heads, traces and recipe of ``pack``."""
    with np.load(path) as stored:
        found = json.loads(str(stored["about"]))
        found |= {name: stored[name].astype(np.float32) for name in ("traces", "held_traces")}
        found["arrays"] = [stored[f"head{i}"] for i in range(len(found["facts"]))]
        found["masks"] = [
            np.unpackbits(stored[f"mask{i}"], count=array.size).reshape(array.shape).astype(bool)
            for i, array in enumerate(found["arrays"])
        ]
    return found


def pack_heads(config: str | Path, data: Path, cache: Path, out: Path, megabytes: float) -> dict[str, Any]:
    """Pack quiet bases of a configuration's people to train on, round-robin over scanners, and recorded motion."""
    from BrainDiffLogic.training.configuration import CorrectorConfiguration, Recipe
    from BrainDiffLogic.training.fields import read_section
    from BrainDiffLogic.training.heads import find_sources, find_traces

    configuration = read_section(CorrectorConfiguration, config)
    people, _ = find_sources(configuration, data)
    queues: dict[str, list[Any]] = defaultdict(list)
    for source in people:
        queues[re.split(r"[-_]\d", source.subject)[0].rsplit("-", 1)[0]].append(source)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues.values()))
    order = sorted((source for source in turns if source), key=lambda source: source.subject not in HELD_OUT)
    facts: list[dict[str, Any]] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_BZIP2) as file:  # a sixth smaller than deflate, and np.load reads it
        for name, set_, count in zip(("traces", "held_traces"), find_traces(configuration, data), TRACES, strict=True):
            rng = np.random.default_rng(configuration.seed)
            drawn = [set_.draw(TRACE_POSES, 1.5, rng) for _ in range(count)]  # type: ignore[union-attr]
            rows = np.stack([np.hstack([t.translations, t.rotations]) for t in drawn])
            _write(file, name, rows.astype(np.float16))
        for source in order:
            if part.stat().st_size > megabytes * 1e6 - LARGEST[source.kind]:
                continue
            array, mask, spacing, more = _labels(source) if source.kind == "labels" else _quiet(source, cache)
            box = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {d})))[[0, -1]] for d in range(3)]
            _write(file, f"head{len(facts)}", array)
            _write(file, f"mask{len(facts)}", np.packbits(mask))
            facts.append({
                "subject": source.subject, "kind": source.kind, "shape": array.shape, "weight": source.weight,
                "held_out": source.subject in HELD_OUT, "spacing": spacing.tolist(),
                "centre": [float(ends.mean()) for ends in box], "ends": box[0].tolist(), **more,
            })  # fmt: skip
            file.fp.flush()
        shares = Counter((fact["kind"], fact["weight"]) for fact in facts if not fact["held_out"])
        whole = Counter((source.kind, source.weight) for source in people if source.subject not in HELD_OUT)
        for fact in facts:  # a pattern of the configuration keeps its weight, however few of its heads are packed
            key = fact["kind"], fact["weight"]
            fact["weight"] *= whole[key] / max(1, shares[key])
        recipe = asdict(replace(configuration.recipe, max_voxels=Recipe().max_voxels))
        _write(file, "about", np.array(json.dumps({"facts": facts, "recipe": recipe})))
    os.replace(part, out)
    return {"heads": len(facts), "MB": round(out.stat().st_size / 1e6, 2), **Counter(f["kind"] for f in facts)}


def _quiet(source: Any, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """(grey values uint8, mask, spacing, nothing more) of a scan without its noise, kept in ``cache``."""
    from BrainDiffLogic.scan import head_mask
    from BrainDiffLogic.training.heads import load, quiet_head, quiet_name

    still = quiet_head(cache / quiet_name(source), lambda: load(source, np.random.default_rng(0)))
    array = np.rint(np.clip(still.array, 0, 255 / UNIT) * UNIT).astype(np.uint8)
    return array, head_mask(still.array), still.spacing, {}


def _labels(source: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """(numbers of labels uint8, mask, spacing, the labels) of a map of labels, to be painted anew for every pair."""
    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.volume import sagittal_affine, to_sagittal

    volume = read_volume(source.path)
    stack, spacing = np.rint(to_sagittal(volume)).astype(int), np.diag(sagittal_affine(volume))[:3]
    margins = [int(MARGIN_MM / step) for step in spacing]
    ends = [np.flatnonzero((stack > 0).any(axis=tuple({0, 1, 2} - {d})))[[0, -1]] for d in range(3)]
    stack = stack[tuple(slice(max(0, a - m), b + 1 + m) for (a, b), m in zip(ends, margins, strict=True))]
    values, numbers = np.unique(stack, return_inverse=True)
    return numbers.reshape(stack.shape).astype(np.uint8), stack > 0, spacing, {"labels": values.tolist()}


def _write(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)
