"""What a BIDS folder holds for a reproduction: scans, subjects, pairs, and what is left out and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from BrainDiffLogic.cohort.bids import Scan, find_scans, pairs, without_bad_stills
from BrainDiffLogic.cohort.split import SPLITS, Manifest, assert_disjoint
from BrainDiffLogic.errors import InputError


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
        content = [[scan.name, scan.path.stat().st_size, scan.group] for scan in self.scans]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def of(self, subjects: Iterable[str], group: str) -> list[Scan]:
        """The scans of these subjects in a group, "clean" or "motion"."""
        chosen = set(subjects)
        return [scan for scan in self.scans if scan.subject in chosen and scan.group == group]


def find_cohort(data: Path, worst_still: int) -> Cohort:
    """The cohort in the BIDS folder ``data``. Raises InputError where it cannot train a motion prior."""
    everything = find_scans(data, allow_missing=True)
    named = [scan for scan in everything if scan.group]
    good = without_bad_stills(named, worst_still)
    excluded = {
        "neither clean nor motion by name or score": [s.name for s in everything if not s.group],
        f"still scans with a score worse than {worst_still}": [s.name for s in named if s not in good],
    }
    groups = Counter(scan.group for scan in good)
    for group, hint in (("clean", "acq-standard or a score of 1"), ("motion", "acq-headmotionN or a score of 2 or 3")):
        if not groups[group]:
            raise InputError(f"{data}: there is no {group} scan; mark them by {hint} in derivatives/scores.tsv")
    matched = pairs(good)
    partners = {scan.name for pair in matched for scan in pair}
    excluded["without a partner (no pair, used elsewhere)"] = [s.name for s in good if s.name not in partners]
    return Cohort(good, matched, {reason: names for reason, names in excluded.items() if names})


def describe(cohort: Cohort, manifest: Manifest) -> list[str]:
    """Lines for the person: what was found, and what each stage will use."""
    clean, motion = (sum(scan.group == group for scan in cohort.scans) for group in ("clean", "motion"))
    lines = [
        f"found {len(cohort.scans)} scans of {len(cohort.subjects)} subjects: {clean} clean, {motion} with motion,"
        f" {len(cohort.pairs)} pairs"
    ]
    for reason, names in cohort.excluded.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"left out, {reason}: {', '.join(names[:3])}{more}")
    uses = {
        "prior": "vae: both groups; ldm: motion; ldm-clean: clean",
        "correction": "vae: both groups; injected, physics, correctors: clean",
        "test": "table only: clean, and the pairs with motion",
    }
    for split in SPLITS:
        members = manifest.splits[split]
        counts = [len(cohort.of(members, group)) for group in ("clean", "motion")]
        lines.append(f"{split}: {len(members)} subjects, {counts[0]} clean, {counts[1]} motion scans ({uses[split]})")
    return lines


def check_enough(cohort: Cohort, manifest: Manifest, held_out: bool) -> None:
    """Raise InputError where a split lacks what its stages need, before hours are spent on the others.

    held_out  whether the corrector holds out a subject of the correction split
    """
    needs = [("prior", "motion", 1), ("prior", "clean", 1), ("correction", "clean", 2 if held_out else 1)]
    for split, group, least in (*needs, ("test", "clean", 1)):
        subjects = {scan.subject for scan in cohort.of(manifest.splits[split], group)}
        if len(subjects) < least:
            raise InputError(
                f"the split {split} has {len(subjects)} subjects with {group} scans, {least} needed; give more subjects"
            )


def assert_split(stage: str, used: Iterable[str], manifest: Manifest, *splits: str) -> None:
    """Raise AssertionError, naming the subject, where a stage uses one that is not in its splits, or is in two."""
    assert_disjoint(manifest.splits)
    allowed = {subject for split in splits for subject in manifest.splits[split]}
    for subject in sorted(set(used) - allowed):
        raise AssertionError(f"{stage}: subject {subject} is not in {' or '.join(splits)}")
