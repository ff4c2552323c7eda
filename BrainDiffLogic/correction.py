"""Correct head motion in a volume: the one engine of the panel, the CLI module, the command and Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.blending import blend, check_strength
from BrainDiffLogic.checkpoints import DEFAULT_MODEL, PHYSICS, Card, load_checkpoint
from BrainDiffLogic.disagreement import Panel, measure, nowhere
from BrainDiffLogic.domain import judge
from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.intensity import head_mask, robust_scale, seen_through_mask
from BrainDiffLogic.volume import Volume, from_sagittal, pad_to_multiple, to_sagittal

if TYPE_CHECKING:
    from BrainDiffLogic.motion.estimate import Limits
    from BrainDiffLogic.networks import Corrector
    from BrainDiffLogic.severity.gate import Decision

NO_DISAGREEMENT = 'the model "motion" has no disagreement map; leave it out, or choose a network'

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
    model: str | Path | tuple[Corrector | Limits, Card] = DEFAULT_MODEL,
    *,
    strength: float = 1.0,
    device: str = "auto",
    force: bool = False,
    gate: bool = True,
    disagreement: bool = False,
    pe_axis: str | None = None,
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
    pe_axis    for the model "motion": "AP", "SI" or "LR", the axis of slow phase encoding; None: tried
    progress   called with (share done, stage) after every batch of slices
    cancelled  asked before every batch; when it says True, ``Cancelled`` is raised

    By a network: the volume is cut into sagittal slices without resampling, brought to one robust scale, and the
    model's residual is taken off in the input's own units (BrainDiff eq. 2): where the model predicts zero, the input
    comes back bit for bit. By physics (the model "motion"): the poses of the head are found from the image alone, and
    what they added to it is taken off (``motion.estimate``). Raises InputError for bad input, an unknown model, or a
    volume far outside the model's domain.
    """
    from BrainDiffLogic.severity.gate import decide

    check_strength(strength)
    started = time.perf_counter()
    if not isinstance(volume, Volume):
        from BrainDiffLogic.images import read_volume

        volume = read_volume(volume)
    corrector, card = model if isinstance(model, tuple) else load_checkpoint(model)
    head = head_mask(volume.array)
    if disagreement and card["family"] == PHYSICS:
        raise InputError(NO_DISAGREEMENT)
    judgement = judge(volume, card, head)
    if judgement.refused and not force:
        raise Refused(f"{volume.name}: {judgement.refused}; correct it all the same with --force")

    motion = decide(volume, head, gate=gate, force=force)
    judged = motion, gate and not force
    if card["family"] == PHYSICS:
        limits = cast("Limits", corrector)
        found = _by_physics(volume, head, limits, judged, pe_axis, progress, cancelled)
    else:
        network = cast("Corrector", corrector), card
        found = _by_network(volume, head, network, judged, device, disagreement, progress, cancelled)
    facts = {
        "software": f"BrainDiff {__version__}", "model": card["name"], "model_version": card["version"],
        "model_sha256": card["sha256"], "family": card["family"], "input": volume.source,
        "outside_domain": judgement.notes, "forced": bool(judgement.refused),
        "device": found.device, "notes": [*found.decision.notes, *found.notes], **found.decision.facts, **found.facts,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    exact = np.result_type(volume.array.dtype, np.float32)  # float64 where float32 would round the input
    change = found.change.astype(exact, copy=False)
    return Finding(volume, change, head, facts, found.disagreement).blended(strength)


@dataclass(frozen=True)
class _Found:
    """What a corrector would add (I, J, K) in the volume's units, on which device, and what there is to say of it."""

    change: np.ndarray
    decision: Decision
    device: str
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    disagreement: np.ndarray | None = None


def _by_physics(
    volume: Volume, head: np.ndarray, limits: Limits, judged: tuple[Decision, bool], pe_axis: str | None,
    progress: Progress | None, cancelled: Callable[[], bool] | None,
) -> _Found:  # fmt: skip
    """Find the motion and take off the artifact that it made; nothing where no motion explains the scan."""
    from BrainDiffLogic.motion.estimate import SEARCH_DONE, artifact, estimate_motion
    from BrainDiffLogic.motion.kspace import phase_encode_axis

    motion, may_refrain = judged
    change = np.zeros(volume.shape, np.float32)
    if pe_axis is not None:
        phase_encode_axis(volume.affine, pe_axis)  # an unknown axis is the caller's mistake, not a scan to leave alone
    if not motion.correct:
        return _Found(change, motion, "cpu", {"motion": None})
    try:
        estimate = estimate_motion(
            volume, pe_axis, head=head, limits=limits, cancelled=cancelled, progress=_part(progress, 0.0, SEARCH_DONE)
        )
    except InputError as error:
        return _Found(change, motion.overruled(f"returned unchanged: {error}"), "cpu", {"motion": None})
    if may_refrain and not estimate.moved:
        motion = motion.overruled(f"returned unchanged: {estimate.reason}; apply it all the same with --force")
    else:
        change = -artifact(volume, estimate, head=head, cancelled=cancelled)
    if progress:
        progress(1.0, "Undoing the motion")
    return _Found(change, motion, "cpu", {"motion": estimate.as_dict()})


def _by_network(
    volume: Volume, head: np.ndarray, model: tuple[Corrector, Card], judged: tuple[Decision, bool], device: str,
    disagreement: bool, progress: Progress | None, cancelled: Callable[[], bool] | None,
) -> _Found:  # fmt: skip
    """Ask a network for the residual of every sagittal slice, and the others how far they disagree."""
    from BrainDiffLogic.inference import predict_residual

    (corrector, card), (motion, may_refrain) = model, judged
    scale = robust_scale(volume.array, head)
    stack = scale.forward(np.ascontiguousarray(to_sagittal(volume)))
    padded, original = pad_to_multiple(stack, corrector.multiple)
    corrector_sees = padded if motion.correct else np.zeros_like(padded)  # a slice of one value has no residual
    panel = Panel.around((corrector, card)) if disagreement and motion.correct else None
    share = 1 / len(panel) if panel else 1.0
    ask = partial(predict_residual, device=device, cancelled=cancelled)
    run = ask(corrector, corrector_sees, progress=_part(progress, 0.0, share))
    residual = run.residual[original]
    apart, how = nowhere(stack) if disagreement else (None, None)
    if motion.correct and may_refrain and (line := _too_little(residual, volume, head, card)):
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
    facts: dict[str, Any] = {"intensity_offset": scale.offset, "intensity_scale": scale.scale}
    if how and apart is not None:
        facts["disagreement"] = how.facts
        apart = scale.residual_to_input_units(from_sagittal(apart, volume)) * head  # nothing is known of errors in air
    change = -scale.residual_to_input_units(from_sagittal(residual, volume))
    return _Found(change, motion, run.device, facts, [*run.notes, *(how.notes if how else [])], apart)


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
    hidden = ""
    if seen_through_mask(volume.array) is not None:
        hidden = (
            "; its air is exactly empty: if a mask was laid on after the scan, it hides the ghosts that this network"
            " looks for, so correct the head before stripping it"
        )
    return (
        f"returned unchanged: the model finds too little, {change:.2g} of the scale on average, below {least:g} on its"
        f" card; apply it all the same with --force{hidden}"
    )


def _part(progress: Progress | None, begin: float, share: float) -> Progress | None:
    """Progress of one of several runs, which takes ``share`` of the whole and begins at ``begin``."""
    return None if progress is None else lambda done, stage: progress(begin + done * share, stage)
