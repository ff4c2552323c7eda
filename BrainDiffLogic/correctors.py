"""The two kinds of corrector behind one interface: networks, which see slices, and physics, which finds the motion.

Either takes a ``Job`` and gives a ``Change``; a scan that is better left alone gets a change of zeros, and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.disagreement import NOT_ASKED, Panel, measure
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.intensity import seen_through_mask
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, Card, load_checkpoint
from BrainDiffLogic.progress import Progress, part_of, silent
from BrainDiffLogic.scan import Scan

if TYPE_CHECKING:
    from BrainDiffLogic.models.corrector import Corrector
    from BrainDiffLogic.motion.estimate import Limits
    from BrainDiffLogic.severity.gate import Decision

NETWORK_SHARE = 0.1
"""Of a correction by physics, each of the two times that the network is asked."""


@dataclass(frozen=True)
class Job:
    """What a corrector is asked.

    motion       what the motion gate says of the scan
    may_refrain  whether the corrector may return the scan unchanged for a reason of its own
    The other fields are arguments of ``correction.correct``.
    """

    scan: Scan
    motion: Decision
    may_refrain: bool
    device: str = "auto"
    disagreement: bool = False
    pe_axis: str | None = None
    progress: Progress = silent
    cancelled: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Change:
    """What a corrector found.

    change        (I, J, K) float32 in the volume's units: what to add at strength 1
    decision      the gate's, or the corrector's own where it overruled it
    disagreement  (I, J, K) float32 in the volume's units; None where it was not asked for
    """

    change: np.ndarray
    decision: Decision
    device: str
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    disagreement: np.ndarray | None = None


def by_physics(job: Job, limits: Limits) -> Change:
    """Find the motion, take off the artifact that it made, and ask the default network for what is left.

    Neither the misfit nor the evidence tells poses that are right from poses that are wrong. The network does: it
    knows nothing of poses, so that where both find the same artifact, both have found it. The poses that agree with
    it most are chosen, as much of their artifact is taken off as the agreement allows, and where the network finds
    nothing, nothing is searched.
    """
    from BrainDiffLogic.motion.estimate import artifact, correlation, estimate_motion
    from BrainDiffLogic.motion.kspace import phase_encode_axis

    scan, volume = job.scan, job.scan.volume
    if job.pe_axis is not None:
        phase_encode_axis(volume.affine, job.pe_axis)  # an unknown axis is the caller's mistake
    network, card = load_checkpoint(DEFAULT_MODEL)
    first = by_network(replace(job, progress=part_of(job.progress, 0.0, NETWORK_SHARE)), network, card)
    facts = {**first.facts, "network": {"name": card["name"], "sha256": card["sha256"]}, "motion": None}
    first = replace(first, facts=facts)
    if not first.decision.correct or not first.change.any():
        return first
    search = part_of(job.progress, NETWORK_SHARE, 1 - 2 * NETWORK_SHARE)
    try:
        estimate = estimate_motion(
            scan, job.pe_axis, seen=-first.change, limits=limits, cancelled=job.cancelled, progress=search
        )
    except InputError as error:
        return replace(first, notes=[*first.notes, f"corrected by {card['name']} alone: {error}"])
    made = artifact(scan, estimate, cancelled=job.cancelled)
    inside = made[scan.head], -first.change[scan.head]
    agreement = correlation(*inside)
    share = _share(*inside, limits.trust_in(estimate.facts["shape"])) if agreement >= limits.agreement else 0.0
    facts["motion"] = {**estimate.as_dict(), "agreement": round(agreement, 3), "share_taken_off": round(share, 3)}
    if not share:
        line = f"corrected by {card['name']} alone: no motion was found that makes what it takes off"
        return replace(first, notes=[*first.notes, line])
    above = np.subtract(volume.array, volume.array.min(), dtype=np.result_type(volume.array, np.float32))
    made = np.minimum(np.float32(share) * made, above)  # no voxel below the lowest
    cleaner = Scan(volume.with_array(volume.array - made))
    rest = by_network(
        replace(job, scan=cleaner, may_refrain=False, progress=part_of(job.progress, 1 - NETWORK_SHARE, NETWORK_SHARE)),
        network, card,
    )  # fmt: skip
    notes = [*first.notes, *(note for note in rest.notes if note not in first.notes)]
    return replace(first, change=rest.change - made.astype(np.float32), device=rest.device, notes=notes)


def _share(made: np.ndarray, seen: np.ndarray, trust: float) -> float:
    """How much of the artifact ``made`` (n,) to take off, 0 to 1, where the network saw ``seen`` (n,) of it.

    The least-squares gain of one on the other, times ``trust``, because the network takes off a part of what it sees.
    """
    return float(np.clip(trust * float(np.vdot(made, seen)) / float(np.vdot(made, made)), 0, 1))


def by_network(job: Job, corrector: Corrector, card: Card) -> Change:
    """Ask a network for the residual of every slice, and the others how far they disagree."""
    from BrainDiffLogic.inference import choose_device, predict_residual

    scan, motion = job.scan, job.motion
    facts: dict[str, Any] = {
        "intensity_offset": scan.scale.offset, "intensity_scale": scan.scale.scale, "plane": scan.plane
    }  # fmt: skip
    notes = [] if scan.plane == "sagittal" else [
        f"corrected in its own {scan.plane} slices: the model was trained on sagittal ones"
    ]  # fmt: skip
    panel = Panel.around((corrector, card)) if job.disagreement and motion.correct else None
    residual, device = np.zeros(scan.slices.shape, np.float32), str(choose_device(job.device))
    if motion.correct:
        share = 1 / len(panel) if panel else 1.0
        ask = partial(predict_residual, device=job.device, cancelled=job.cancelled)
        run = ask(corrector, scan.slices, progress=part_of(job.progress, 0.0, share))
        residual, device, notes = run.residual, run.device, [*notes, *run.notes]
        if job.may_refrain and (reason := _too_little(residual, scan, card)):
            motion, panel = motion.overruled(reason), None
            residual = np.zeros_like(residual)
    apart, how = np.zeros_like(residual), NOT_ASKED
    if panel:
        apart, how = measure(
            panel, residual, scan.slices,
            lambda other, shown, n: ask(
                other, shown, head=scan.head_slices, progress=part_of(job.progress, n * share, share)
            ).residual,
        )  # fmt: skip
    disagreement = None
    if job.disagreement:
        facts, notes = {**facts, "disagreement": how.facts}, [*notes, *how.notes]
        disagreement = scan.in_its_units(apart) * scan.head  # nothing is known of errors in air
    return Change(-scan.in_its_units(residual), motion, device, facts, notes, disagreement)


def _too_little(residual: np.ndarray, scan: Scan, card: Card) -> str | None:
    """Why a residual (slices, rows, columns) in network units is too little to be of use; None where it is enough.

    On scans without motion a network still finds a little, which is wrong as often as right. How little, in the mean
    over the head, says the card: "least_change".
    """
    least = card.get("least_change", 0.0)
    inside = scan.head_slices
    change = float(np.abs(residual[inside]).mean()) if inside.any() else 0.0
    if change >= least:
        return None
    hidden = ""
    if seen_through_mask(scan.volume.array) is not None:
        hidden = (
            "; its air is exactly empty: if a mask was laid on after the scan, it hides the ghosts that this network"
            " looks for, so correct the head before stripping it"
        )
    return (
        f"returned unchanged: the model finds too little, {change:.2g} of the scale on average, below {least:g} on its"
        f" card; apply it all the same with --force{hidden}"
    )
