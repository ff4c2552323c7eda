"""Correct head motion in a volume: the one engine of the panel, the CLI module, the command and Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.blending import blend, check_strength
from BrainDiffLogic.checkpoints import DEFAULT_MODEL, Card, load_checkpoint
from BrainDiffLogic.disagreement import Panel, measure, nowhere
from BrainDiffLogic.domain import judge
from BrainDiffLogic.errors import Refused
from BrainDiffLogic.intensity import head_mask, robust_scale
from BrainDiffLogic.volume import Volume, from_sagittal, pad_to_multiple, to_sagittal

if TYPE_CHECKING:
    from BrainDiffLogic.networks import Corrector

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and the name of the stage."""


@dataclass(frozen=True)
class Finding:
    """What the network found in ``volume``, before it is blended with it.

    change  (I, J, K) what to add at strength 1, in the volume's units
    head    (I, J, K) bool
    facts   the part of the report that does not depend on the strength
    disagreement  (I, J, K) float32 in the volume's units, at strength 1; None where it was not asked for
    """

    volume: Volume
    change: np.ndarray
    head: np.ndarray
    facts: dict[str, Any]
    disagreement: np.ndarray | None = None

    def blended(self, strength: float) -> Correction:
        """The volume plus ``strength`` (0 to 1) times the change."""
        corrected, difference = blend(self.volume.array, self.change, strength)
        return Correction(
            self.volume.with_array(corrected, kind="magnitude"),
            self.volume.with_array(difference, kind="difference"),
            {**self.facts, "strength": strength, **self._figures(difference)},
            self,
            None if self.disagreement is None else self.volume.with_array(self.disagreement, kind="difference"),
        )

    def _figures(self, difference: np.ndarray) -> dict[str, Any]:
        """How much was changed inside the head, and the slice of ``to_sagittal`` where it was most."""
        size = np.abs(difference, dtype=np.float32) * self.head
        total = float(np.abs(self.volume.array[self.head], dtype=np.float64).sum())
        by_slice = to_sagittal(self.volume.with_array(size, kind="difference")).mean(axis=(1, 2))
        return {
            "changed_share": float(size.sum(dtype=np.float64) / total) if total else 0.0,
            "worst_sagittal_slice": int(by_slice.argmax()),
        }


@dataclass(frozen=True)
class Correction:
    """What ``correct`` gives.

    corrected   the corrected volume on the grid of the input; float32, or float64 where float32 cannot hold
                the input's values (int32, float64); at strength 0 the input's own voxels
    difference  corrected - input, signed, in the input's units, exactly
    report      what was done, with which model, and what was noticed; JSON-able
    finding     what the network found, for another strength
    disagreement  how far predictions disagree at strength 1 (``disagreement.measure``), float32 in the input's units, 0
                outside the head; None where it was not asked for
    """

    corrected: Volume
    difference: Volume
    report: dict[str, Any] = field(repr=False)
    finding: Finding = field(repr=False)
    disagreement: Volume | None = field(default=None, repr=False)

    def with_strength(self, strength: float) -> Correction:
        """The same correction at another strength, without running the network again."""
        return self.finding.blended(strength)


def correct(
    volume: Volume | str | Path,
    model: str | Path | tuple[Corrector, Card] = DEFAULT_MODEL,
    *,
    strength: float = 1.0,
    device: str = "auto",
    force: bool = False,
    gate: bool = True,
    disagreement: bool = False,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Correction:
    """Correct head motion in a T1-weighted head volume.

    volume     a Volume, or a file or DICOM folder to read
    model      name of an available model, a .safetensors file, or (corrector, card)
    strength   0 (the input, voxel for voxel) to 1 (all that the model would remove)
    device     "auto", "cpu", "cuda" or "mps"
    force      correct also a volume far outside the domain on the model's card (what is merely outside is noted
               in the report), and one that the motion gate would return unchanged, or in
               which the model finds too little
    gate       estimate how far the head moved, and return a volume that shows too little motion to gain from
               correction unchanged (``severity.gate``), as one in which the model finds too little; False, to measure
               a model: neither
    disagreement  also ask the model about mirrored and shifted slices, and the shipped models of the other families,
               and say how far their answers lie apart; takes some three times as long
    progress   called with (share done, stage) after every batch of slices
    cancelled  asked before every batch; when it says True, ``Cancelled`` is raised

    The volume is cut into sagittal slices without resampling, brought to one robust scale, and the model's
    residual is taken off in the input's own units (BrainDiff eq. 2): where the model predicts zero, the input
    comes back bit for bit. Raises InputError for bad input, an unknown model, or a volume far outside the model's
    domain.
    """
    from BrainDiffLogic.inference import predict_residual
    from BrainDiffLogic.severity.gate import decide

    check_strength(strength)
    started = time.perf_counter()
    if not isinstance(volume, Volume):
        from BrainDiffLogic.images import read_volume

        volume = read_volume(volume)
    corrector, card = model if isinstance(model, tuple) else load_checkpoint(model)
    head = head_mask(volume.array)
    judgement = judge(volume, card, head)
    if judgement.refused and not force:
        raise Refused(f"{volume.name}: {judgement.refused}; correct it all the same with --force")

    scale = robust_scale(volume.array, head)
    stack = scale.forward(np.ascontiguousarray(to_sagittal(volume)))
    padded, original = pad_to_multiple(stack, corrector.multiple)
    motion = decide(volume, head, gate=gate, force=force)
    corrector_sees = padded if motion.correct else np.zeros_like(padded)  # a slice of one value has no residual
    panel = Panel.around((corrector, card)) if disagreement and motion.correct else None
    share = 1 / len(panel) if panel else 1.0
    ask = partial(predict_residual, device=device, cancelled=cancelled)
    run = ask(corrector, corrector_sees, progress=_part(progress, 0.0, share))
    residual = run.residual[original]
    apart, how = nowhere(stack) if disagreement else (None, None)
    if motion.correct and gate and not force and (line := _too_little(residual, volume, head, card)):
        motion, panel = motion.overruled(line), None
        residual = np.zeros_like(residual)
        if progress:
            progress(1.0, "Correcting")
    if panel:
        apart, how = measure(
            panel, run.residual, padded,
            lambda other, shown, n: ask(other, shown, progress=_part(progress, n * share, share)).residual,
        )  # fmt: skip
        apart = apart[original]
    change = -scale.residual_to_input_units(from_sagittal(residual, volume))
    facts = {
        "software": f"BrainDiff {__version__}", "model": card["name"], "model_version": card["version"],
        "model_sha256": card["sha256"], "family": card["family"], "input": volume.source,
        "outside_domain": judgement.notes, "forced": bool(judgement.refused),
        "device": run.device, "notes": [*motion.notes, *run.notes, *(how.notes if how else [])], **motion.facts,
        "intensity_offset": scale.offset, "intensity_scale": scale.scale,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    if how and apart is not None:
        facts["disagreement"] = how.facts
        apart = scale.residual_to_input_units(from_sagittal(apart, volume)) * head  # nothing is known of errors in air
    exact = np.result_type(volume.array.dtype, np.float32)  # float64 where float32 would round the input
    return Finding(volume, change.astype(exact, copy=False), head, facts, apart).blended(strength)


def _too_little(residual: np.ndarray, volume: Volume, head: np.ndarray, card: Card) -> str | None:
    """Why a residual (slices, rows, columns) in network units is too little to be of use; None where it is enough.

    On scans without motion a network still finds a little, which is wrong as often as right. How little, in the mean
    over the head (I, J, K), says the card: "least_change".
    """
    least = card.get("least_change", 0.0)
    inside = to_sagittal(volume.with_array(head, kind="mask"))
    change = float(np.abs(residual[inside]).mean()) if inside.any() else 0.0
    if change >= least:
        return None
    return (
        f"returned unchanged: the model finds too little, {change:.2g} of the scale on average, below {least:g} on its"
        " card; apply it all the same with --force"
    )


def _part(progress: Progress | None, begin: float, share: float) -> Progress | None:
    """Progress of one of several runs, which takes ``share`` of the whole and begins at ``begin``."""
    return None if progress is None else lambda done, stage: progress(begin + done * share, stage)
