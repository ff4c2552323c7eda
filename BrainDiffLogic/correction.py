"""Correct head motion in a volume: the one engine of the panel, the CLI module, the command and Python.

The two kinds of corrector, networks, which see slices, and physics, which finds the motion, take a ``Job`` and give a
``Change``; a scan that is better left alone gets a change of zeros, and the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.disagreement import NOT_ASKED, Panel, disagreement_map
from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, DEFAULT_NETWORK, PHYSICS, Card, load_checkpoint
from BrainDiffLogic.models.domain import Judgement, judge
from BrainDiffLogic.progress import Progress, part_of, silent
from BrainDiffLogic.scan import Scan, seen_through_mask
from BrainDiffLogic.severity import decide
from BrainDiffLogic.volume import Volume, blend, check_strength, to_sagittal, voxels

if TYPE_CHECKING:
    from BrainDiffLogic.models.corrector import Corrector
    from BrainDiffLogic.motion.estimate import Limits, MotionEstimate
    from BrainDiffLogic.severity import Decision


NETWORK_SHARE = 0.1
"""Of a correction by physics, each of the three times that the network is asked."""
PROBE = 0.25
"""Share of an artifact that is taken off to see how much less the network finds of it then."""

SEES_MOTION, OVERRULES = 0.004, 0.25
"""The motion gate knows less than network and poses together. Where it sees no motion, but the network takes off so
large a share of the scale, in the mean over the head, motion is searched; it overrules the gate where the artifact
agrees so well with what the network takes off. Of 119 still scans, some with noise of 2 and 4 % more, the network takes
more than 0.0022 off one alone, 0.0059, with which the poses agree by 0.15; off pycortex-S1 drifting by 2 mm in coils,
which the gate returned, 0.0095, with an agreement of 0.35."""
NOT_BELIEVED = "trajectory_not_believed"
"""Where a report has the poses of which nothing was taken off, in place of "trajectory"."""
TOO_LARGE = f"the search for motion does not fit into the memory; the model {DEFAULT_NETWORK} takes half as much"


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
    it most are chosen, and as much of their artifact is taken off as its answer says (``_share_to_take_off``), less
    where they agree little; of a nod, whose poses are known, all, unless the network sees it itself. Where the network
    finds nothing, nothing is searched. Where both find motion that the gate does not see, it is overruled
    (``OVERRULES``).
    """
    from BrainDiffLogic.motion.kspace import phase_encode_axis

    if job.pe_axis is not None:
        phase_encode_axis(job.scan.volume.affine, job.pe_axis)  # an unknown axis is the caller's mistake
    both = _PhysicsAndNetwork(job, limits, *load_checkpoint(DEFAULT_NETWORK))
    if not both.network_sees_motion():
        return both.network_alone()
    why_not = ""
    try:
        estimate, made = both.searched()
    except InputError as error:
        why_not = str(error)
    except MemoryError as error:  # not corrected in another way than was asked for: a cohort would not be one
        raise MemoryError(f"{job.scan.volume.name}: {TOO_LARGE}") from error
    if why_not:  # only now, when what the search held is gone
        return both.network_alone(why_not)
    share, why = both.believed(estimate, made)
    return both.joined(made, share) if share else both.network_alone(why)


class _PhysicsAndNetwork:
    """A scan of which the network is asked first, and what follows from its answer.

    job     what was asked; limits: from where on poses are believed; network, card: the default network
    facts   entries of the report, filled on the way
    """

    def __init__(self, job: Job, limits: Limits, network: Corrector, card: Card) -> None:
        self.asked, self.gate, self.limits, self.network, self.card = job, job.motion, limits, network, card
        self.job = job if self.gate.correct else replace(job, motion=self.gate.corrected_all_the_same())
        progress = part_of(job.progress, 0.0, NETWORK_SHARE)
        self.first = by_network(replace(self.job, disagreement=False, progress=progress), network, card)
        self.facts: dict[str, Any] = {"network": {"name": card["name"], "sha256": card["sha256"]}, "motion": None}

    def network_sees_motion(self) -> bool:
        """Whether it takes anything off; much, where the gate sees no motion."""
        least = 0.0 if self.gate.correct else SEES_MOTION * self.job.scan.scale.scale
        inside = np.abs(self.first.change[self.job.scan.head])
        return self.first.decision.correct and float(inside.sum(dtype=np.float64)) > least * inside.size

    def network_alone(self, why: str = "") -> Change:
        """What the network takes off alone; ``why``, for the report."""
        if not self.gate.correct:
            one = by_network(self.asked, self.network, self.card)
            return replace(one, facts={**one.facts, **self.facts})
        one = self.first
        if self.job.disagreement:  # asked for only now that it is known that this is what is used
            progress = part_of(self.job.progress, 1 - NETWORK_SHARE, NETWORK_SHARE)
            one = by_network(replace(self.job, progress=progress), self.network, self.card)
        notes = [*one.notes, f"corrected by {self.card['name']} alone: {why}"] if why else one.notes
        return replace(one, facts={**one.facts, **self.facts}, notes=notes)

    def searched(self) -> tuple[MotionEstimate, np.ndarray]:
        """The motion that is found, and (I, J, K) the artifact that it made."""
        from BrainDiffLogic.motion.estimate import artifact, estimate_motion

        scan, cancelled = self.job.scan, self.job.cancelled
        estimate = estimate_motion(
            scan, self.job.pe_axis, seen=-self.first.change, limits=self.limits, cancelled=cancelled,
            progress=part_of(self.job.progress, NETWORK_SHARE, 1 - 3 * NETWORK_SHARE),
        )  # fmt: skip
        return estimate, artifact(scan, estimate, cancelled=cancelled)

    def believed(self, estimate: MotionEstimate, made: np.ndarray) -> tuple[float, str]:
        """(How much of the artifact ``made`` to take off, 0 to 1; why nothing of it)."""
        from BrainDiffLogic.motion.estimate import NOD, correlation

        head, limits = self.job.scan.head, self.limits
        inside = made[head], -self.first.change[head]
        agreement = correlation(*inside)
        share, why = 0.0, "no motion was found that makes what it takes off"
        if not self.gate.correct and agreement < OVERRULES:
            why = ""
        elif estimate.facts["shape"] == NOD and agreement >= limits.agreement:
            share, why = float(agreement < limits.nod_seen), "it sees the nod that was found itself"
        elif trust := limits.trust(agreement):
            _, probe = self._without(made, PROBE, begin=1 - 2 * NETWORK_SHARE, probing=True)
            share = trust * _share_to_take_off(*inside, -probe.change[head])
        found = estimate.as_dict()
        if not share:
            found[NOT_BELIEVED] = found.pop("trajectory")
        self.facts["motion"] = {**found, "agreement": round(agreement, 3), "share_taken_off": round(share, 3)}
        return share, why

    def joined(self, made: np.ndarray, share: float) -> Change:
        """The scan without ``share`` of the artifact ``made``, what is left corrected by the network."""
        part, rest = self._without(made, share, begin=1 - NETWORK_SHARE)
        first, name = self.first, self.card["name"]
        notes = [*first.notes, *(note for note in rest.notes if note not in first.notes)]
        if not self.gate.correct:
            notes.append(f"the motion gate saw none, but motion was found that makes what {name} takes off")
        if self.job.disagreement:
            self.facts["disagreement"] = {**rest.facts["disagreement"], "calibrated": False, "share": None}
            notes.append(
                f"the disagreement map is of what {name} takes off, not of the motion that was found:"
                " it is not calibrated"
            )
        change, facts = rest.change - part.astype(np.float32), {**rest.facts, **first.facts, **self.facts}
        return replace(rest, change=change, decision=first.decision, facts=facts, notes=notes)

    def _without(
        self, made: np.ndarray, share: float, *, begin: float, probing: bool = False
    ) -> tuple[np.ndarray, Change]:
        """(What is taken off of the artifact ``made``, what the network finds in the scan without it).

        made     (I, J, K) in the volume's units, of which ``share`` is taken off
        begin    share of the whole work that is done already
        probing  nothing but what the network finds in the head is asked for
        """
        job, volume = self.job, self.job.scan.volume
        above = np.subtract(volume.array, volume.array.min(), dtype=np.result_type(volume.array, np.float32))
        part = np.minimum(np.float32(share) * made, above)  # no voxel below the lowest
        cleaner = Scan(volume.with_array(volume.array - part))
        progress = part_of(job.progress, begin, NETWORK_SHARE)
        only, asked = (job.scan.head_slices, False) if probing else (None, job.disagreement)
        job = replace(job, scan=cleaner, may_refrain=False, disagreement=asked, progress=progress)
        return part, by_network(job, self.network, self.card, only)


def _share_to_take_off(made: np.ndarray, seen: np.ndarray, left: np.ndarray) -> float:
    """How much of the artifact ``made`` (n,) to take off, 0 to 1: as much as the network's own answer says.

    seen, left  (n,) what the network takes off the scan, and off the scan without ``PROBE`` times the artifact
    A network takes off a part of what it sees, and how large a part depends on the scan. So it is asked how much less
    it finds of the artifact once some is gone: at that rate nothing is left to find when this share is gone.
    """
    found, rest = (float(np.vdot(made, one)) for one in (seen, left))
    return float(np.clip(PROBE * found / (found - rest), 0, 1)) if found > rest else 0.0


def by_network(job: Job, corrector: Corrector, card: Card, only: np.ndarray | None = None) -> Change:
    """Ask a network for the residual of every slice, and the others how far they disagree.

    only  bool, as ``Scan.slices``: where alone it is of use; far from there it is 0. None: everywhere
    """
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
        run = ask(corrector, scan.slices, head=only, progress=part_of(job.progress, 0.0, share))
        residual, device, notes = run.residual, run.device, [*notes, *run.notes]
        if job.may_refrain and (reason := _too_little(residual, scan, card)):
            motion, panel = motion.overruled(reason), None
            residual = np.zeros_like(residual)
    apart, how = np.zeros_like(residual), NOT_ASKED
    if panel:
        apart, how = disagreement_map(
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
    found = f"{change:.2g} of the scale on average, below {least:g} on its card; apply it all the same with --force"
    if seen_through_mask(scan.volume.array) is not None:
        return (
            "returned unchanged: the air is exactly empty, and if a mask was laid on after the scan, the model cannot"
            f" see the motion, whose ghosts the mask hides: correct the head before stripping it (it finds {found})"
        )
    return f"returned unchanged: the model finds too little, {found}"


@dataclass(frozen=True)
class Finding:
    """What the corrector found in ``volume``, before it is blended with it.

    change  (I, J, K) what to add at strength 1, in the volume's units
    scan    what was found in the volume first: its head, its scale
    facts   the part of the report that does not depend on the strength
    disagreement  (I, J, K) float32 in the volume's units, at strength 1; None where it was not asked for
    """

    volume: Volume
    change: np.ndarray
    scan: Scan
    facts: dict[str, Any]
    disagreement: np.ndarray | None = None

    @property
    def head(self) -> np.ndarray:
        """(I, J, K) bool."""
        return self.scan.head

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
        """The share of the head's signal above air that was changed; the slice of ``to_sagittal`` where it was most."""
        size = np.abs(difference, dtype=np.float32)
        size *= self.head
        signal = np.subtract(voxels(self.volume.array, self.head), np.float32(self.scan.scale.offset), dtype=np.float32)
        total = float(np.abs(signal, out=signal).sum(dtype=np.float64))
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
    finding     what the corrector found, for another strength
    disagreement  how far predictions disagree at strength 1 (``disagreement_map``), float32 in the input's units, 0
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
    volume: Volume | Scan | str | Path,
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

    volume     a Volume or the Scan of one, or a file or DICOM folder to read
    model      name of an available model, a .safetensors file, or (corrector, card)
    strength   0 (the input, voxel for voxel) to 1 (all that the model would remove)
    device     "auto", "cpu", "cuda" or "mps"
    force      correct also a volume far outside the domain on the model's card (what is merely outside is noted
               in the report), and one that the motion gate would return unchanged, or in which the model finds too
               little
    gate       estimate how far the head moved, and return a volume that shows too little motion to gain from
               correction unchanged (``severity``), as one in which the model finds too little; False, to measure
               a model: neither
    disagreement  also ask the model about mirrored and shifted slices, and the shipped models of the other families,
               and say how far their answers lie apart; a network takes some three times as long
    pe_axis    for the model "motion": "AP", "SI" or "LR", the axis of slow phase encoding; None: tried
    progress   called with (share done, stage) after every batch of slices
    cancelled  asked before every batch; when it says True, ``Cancelled`` is raised

    By a network: the volume is cut into sagittal slices without resampling, brought to one robust scale, and the
    model's residual is taken off in the input's own units (BrainDiff eq. 2): where the model predicts zero, the input
    comes back bit for bit. By physics (the model "motion", ``by_physics``): the poses of the head are found
    from the image alone, what they added to it is taken off as far as the default network sees the same, and the
    network corrects what is left. Raises InputError for bad input, an unknown model, or a
    volume far outside the model's domain.
    """
    check_strength(strength)
    started = time.perf_counter()
    given = _given(volume)
    scan = volume if isinstance(volume, Scan) else Scan(given.without_fill())
    loaded: tuple[Any, Card] = model if isinstance(model, tuple) else load_checkpoint(model)
    corrector, card = loaded
    judgement = judge(scan, card)
    if judgement.refused and not force:
        raise Refused(f"{scan.volume.name}: {judgement.refused}; correct it all the same with --force")
    motion = decide(scan, gate=gate, force=force)
    job = Job(scan, motion, gate and not force, device, disagreement, pe_axis, progress or silent, cancelled)
    made = by_physics(job, corrector) if card["family"] == PHYSICS else by_network(job, corrector, card)
    facts = {**_facts(scan, card, judgement, made), "seconds": round(time.perf_counter() - started, 2)}
    job.progress(1.0, "Correcting")
    exact = np.result_type(scan.volume.array.dtype, np.float32)  # float64 where float32 would round the input
    change = _possible(made.change.astype(exact, copy=False), scan.volume)
    return Finding(given, change, scan, facts, made.disagreement).blended(strength)


def _facts(scan: Scan, card: Card, judgement: Judgement, made: Change) -> dict[str, Any]:
    """The part of the report that does not depend on the strength."""
    return {
        "software": f"BrainDiff {__version__}", "model": card["name"], "model_version": card["version"],
        "model_sha256": card["sha256"], "family": card["family"], "input": scan.volume.source,
        "outside_domain": judgement.notes, "forced": bool(judgement.refused),
        "device": made.device, "notes": [*scan.volume.notes, *made.decision.notes, *made.notes],
        **made.decision.facts, **made.facts,
    }  # fmt: skip


def _possible(change: np.ndarray, volume: Volume) -> np.ndarray:
    """The change, but for what takes a voxel below the volume's lowest value or has no measurement."""
    lowest = np.subtract(volume.array.min(), volume.array, dtype=change.dtype)
    change = np.where(change < lowest, lowest, change)
    if volume.fill is not None:
        change[volume.fill.where] = 0
    return change


def _given(volume: Volume | Scan | str | Path) -> Volume:
    if isinstance(volume, Scan):
        return volume.volume
    if isinstance(volume, Volume):
        return volume
    from BrainDiffLogic.images import read_volume  # what reads files loads slowly; a Volume needs none of it

    return read_volume(volume)
