"""What a BIDS folder holds for a reproduction: scans, subjects, pairs, and what is left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from BrainDiffLogic.data.bids import Scan, find_scans, pairs, without_bad_stills
from BrainDiffLogic.data.split import SPLITS, Manifest, assert_disjoint
from BrainDiffLogic.digests import SHORT, digest, file_digest
from BrainDiffLogic.errors import InputError


@dataclass(frozen=True)
class Uses:
    """What a recipe takes from a cohort.

    groups    of scans, "clean" or "motion"; scans of others are left out
    training  splits whose clean scans correctors learn from
    told      by split, what the recipe does with it, for the person
    """

    groups: tuple[str, ...]
    training: tuple[str, ...]
    told: Mapping[str, str]

    def needs(self, held_out: bool) -> list[tuple[tuple[str, ...], str, int]]:
        """(splits, group, least number of subjects); held_out: correctors hold out a subject to validate on."""
        prior = [(("prior",), group, 1) for group in self.groups if "prior" not in self.training]
        return [*prior, (self.training, "clean", 2 if held_out else 1), (("test",), "clean", 1)]


HINTS = {"clean": "acq-standard or a score of 1", "motion": "acq-headmotionN or a score of 2 or 3"}
"""What makes a scan one of a group."""


@dataclass(frozen=True)
class Cohort:
    """The scans that serve, the (still, motion) pairs among them, and what was left out: reason -> names."""

    scans: list[Scan]
    pairs: list[tuple[Scan, Scan]]
    excluded: Mapping[str, list[str]]

    @property
    def subjects(self) -> list[str]:
        """Sorted, each once."""
        return sorted({scan.subject for scan in self.scans})

    @property
    def digest(self) -> str:
        """A short name for exactly these scans, wherever they lie."""
        return digest([[scan.name, file_digest(scan.path), scan.group] for scan in self.scans])[:SHORT]

    def of(self, subjects: Iterable[str], group: str) -> list[Scan]:
        """The scans of these subjects in a group, "clean" or "motion"."""
        chosen = set(subjects)
        return [scan for scan in self.scans if scan.subject in chosen and scan.group == group]


def find_cohort(data: Path, worst_still: int, groups: Sequence[str] = tuple(HINTS)) -> Cohort:
    """The cohort in the BIDS folder ``data``: its scans of the ``groups``.

    worst_still  still scans with a worse expert score are left out
    Raises InputError where there is no scan of a group.
    """
    everything = find_scans(data, allow_missing=True)
    named = [scan for scan in everything if scan.group]
    good = without_bad_stills(named, worst_still)
    excluded = {
        "neither clean nor motion by name or score": [s.name for s in everything if not s.group],
        f"still scans with a score worse than {worst_still}": [s.name for s in named if s not in good],
    }
    for group in groups:
        if not any(scan.group == group for scan in good):
            raise InputError(f"{data}: there is no {group} scan; mark them by {HINTS[group]} in derivatives/scores.tsv")
    matched: list[tuple[Scan, Scan]] = []
    if "motion" in groups:
        matched = pairs(good)
        partners = {scan.name for pair in matched for scan in pair}
        excluded["without a partner (no pair, used elsewhere)"] = [s.name for s in good if s.name not in partners]
    else:
        excluded["with motion (it is simulated here)"] = [s.name for s in good if s.group not in groups]
    chosen = [scan for scan in good if scan.group in groups]
    return Cohort(chosen, matched, {reason: names for reason, names in excluded.items() if names})


def describe(cohort: Cohort, manifest: Manifest, uses: Uses) -> list[str]:
    """Lines for the person: what was found, and what each stage will use."""
    clean, motion = (sum(scan.group == group for scan in cohort.scans) for group in ("clean", "motion"))
    lines = [
        f"found {len(cohort.scans)} scans of {len(cohort.subjects)} subjects: {clean} clean, {motion} with motion,"
        f" {len(cohort.pairs)} pairs"
    ]
    for reason, names in cohort.excluded.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"left out, {reason}: {', '.join(names[:3])}{more}")
    for split in SPLITS:
        members = manifest.splits[split]
        counts = ", ".join(f"{len(cohort.of(members, group))} {group}" for group in uses.groups)
        lines.append(f"{split}: {len(members)} subjects, {counts} scans ({uses.told[split]})")
    return lines


def check_enough(cohort: Cohort, manifest: Manifest, needs: Iterable[tuple[Sequence[str], str, int]]) -> None:
    """Raise InputError where a split lacks what its stages need, before hours are spent on the others.

    needs  (splits that serve together, group of scans, least number of subjects)
    """
    for splits, group, least in needs:
        members = [subject for split in splits for subject in manifest.splits[split]]
        subjects = {scan.subject for scan in cohort.of(members, group)}
        if len(subjects) < least:
            raise InputError(
                f"the split {' + '.join(splits)} has {len(subjects)} subjects with {group} scans, {least} needed;"
                " give more subjects"
            )


def assert_split(stage: str, used: Iterable[str], manifest: Manifest, *splits: str) -> None:
    """Raise AssertionError, naming the subject, where a stage uses one that is not in its splits, or is in two."""
    assert_disjoint(manifest.splits)
    allowed = {subject for split in splits for subject in manifest.splits[split]}
    for subject in sorted(set(used) - allowed):
        raise AssertionError(f"{stage}: subject {subject} is not in {' or '.join(splits)}")
