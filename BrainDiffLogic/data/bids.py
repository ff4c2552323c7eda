"""The T1-weighted scans of a BIDS folder, joined on the entities in their names, never on sorted lists.

MR-ART (OpenNeuro ds004173, Narai et al., Sci Data 2022;9:630) has 148 subjects but 436 scans, not 444: lists of still
and moved scans that are sorted and zipped pair different people from the first gap on. Names are parsed here and not
by pybids, which brings a database and dozens of packages for what is one regular expression.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from BrainDiffLogic.errors import InputError

STANDARD = "standard"
"""MR-ART's acq-standard: the subject lies still. acq-headmotion1 and -headmotion2: 5 and 10 nods."""
MOTION_LEVEL = re.compile(r"headmotion\d*")
GOOD, SCORES = 1, (1, 2, 3)
"""MR-ART's expert scores: 1 good, 2 medium, 3 bad for clinical use."""
SCORE_FILES = ("derivatives/scores.tsv", "scores.tsv")
SUFFIX = "T1w"
NAME = re.compile(r"(?P<entities>sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_T1w")
OTHER = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*_(?!T1w$)[A-Za-z0-9]+", re.IGNORECASE)
"""Whole names of other images, which may speak of T1w: sub-01_space-T1w_mask."""
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
FOLDERS = ("[sS][uU][bB]-*/[aA][nN][aA][tT]", "[sS][uU][bB]-*/[sS][eE][sS]-*/[aA][nN][aA][tT]")
MISNAMED = "not named as BIDS asks (sub-ID_acq-LABEL_T1w.nii.gz, labels of letters and digits alone); rename it"
NO_CONTENT = "a broken link or an empty file", "datalad get it, or copy it again"
"""What is wrong with a file without content, and the remedy."""


@dataclass(frozen=True)
class BidsScan:
    """One T1-weighted scan of a BIDS folder.

    path      the NIfTI file
    subject   its ``sub`` entity; session: its ``ses`` entity, "" without one
    entities  all of them in the order of the name, ``sub`` and ``ses`` included
    level     "standard" or "headmotionN" where the ``acq`` entity is one of MR-ART's, else ""
    score     1 (good), 2 or 3 (bad) by an expert, None where it was not rated
    """

    path: Path
    subject: str
    session: str
    entities: Mapping[str, str]
    level: str = ""
    score: int | None = None

    @property
    def name(self) -> str:
        """The name of the file without its extension, as scores.tsv calls it."""
        return NIFTI.sub("", self.path.name)

    @property
    def group(self) -> str | None:
        """ "clean" or "motion": by the level, without one by the score (1 is clean), else None."""
        if self.level:
            return "clean" if self.level == STANDARD else "motion"
        if self.score is not None:
            return "clean" if self.score == GOOD else "motion"
        return None


def find_scans(folder: str | Path, allow_missing: bool = False) -> list[BidsScan]:
    """The T1w scans below ``folder``/sub-*/[ses-*/]anat, ordered by subject, session and name.

    allow_missing  leave out scans without content (links of a datalad clone that were not fetched, empty files)
    Scores come from derivatives/scores.tsv, else scores.tsv, joined on the entities. Folders of derivatives are not
    searched. Raises InputError where there is no such scan, a file means to be one and its name is not as BIDS asks or
    not that of its folders, two files have the same entities, a file has no content, or the table of scores is damaged.
    """
    folder = Path(folder)
    named = named_files(folder)
    if not named:
        raise InputError(nothing_found(folder))
    for wrong in (dict.fromkeys(misnamed_files(folder), MISNAMED), misplaced(folder, named), doubled(named)):
        for path, reason in wrong.items():
            raise InputError(f"{path}: {reason}")
    hollow = without_content(named)
    if hollow and not allow_missing or len(hollow) == len(named):
        others = f" ({len(hollow)} such files)" if len(hollow) > 1 else ""
        raise InputError(f"{hollow[0]}: {NO_CONTENT[0]}{others}; {NO_CONTENT[1]}")
    scores = _read_scores(folder)
    scans = [_scan(path, entities, scores) for path, entities in named.items() if path not in hollow]
    return sorted(scans, key=lambda scan: (scan.subject, scan.session, scan.name))


def named_files(folder: Path) -> dict[Path, dict[str, str]]:
    """The T1w files of a BIDS folder and the entities of their names, sorted, whatever is in them.

    Raises InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the root of a BIDS dataset")
    return {path: entities for path in _anatomical(folder) if (entities := parse_name(path.name))}


def misnamed_files(folder: Path) -> dict[Path, dict[str, str]]:
    """Files that mean to be T1w scans by their names, which are none, and ``sub`` and ``ses`` of their folders."""
    meant = (path for path in _anatomical(folder) if SUFFIX.lower() in path.name.lower())
    wrong = [path for path in meant if not parse_name(path.name) and not OTHER.fullmatch(NIFTI.sub("", path.name))]
    places = {path: path.relative_to(folder).parts[:-2] for path in wrong}
    return {
        path: {key: re.sub(r"[^A-Za-z0-9]", "", name[4:]) for key, name in zip(("sub", "ses"), place, strict=False)}
        for path, place in places.items()
    }


def _anatomical(folder: Path) -> list[Path]:
    """The NIfTI files in the folders anat, sorted."""
    files = [path for pattern in FOLDERS for path in folder.glob(f"{pattern}/*")]
    return sorted(path for path in files if NIFTI.search(path.name) and not path.name.startswith("."))


def parse_name(name: str) -> dict[str, str] | None:
    """The entities of a T1w file's name or of a bids_name, in their order; None for any other name."""
    match = NAME.fullmatch(NIFTI.sub("", name))
    if match is None:
        return None
    parts = [part.partition("-") for part in match["entities"].split("_")]
    entities = {key: value for key, _, value in parts}
    return entities if len(entities) == len(parts) else None


def pairs(scans: Iterable[BidsScan]) -> list[tuple[BidsScan, BidsScan]]:
    """(still, motion) pairs of scans that agree in subject, session and every other entity but ``acq``.

    Only scans with a level are paired; one without a partner is in no pair. Ordered as ``scans`` has the motion scans.
    """
    scans = list(scans)
    still = {_apart_from_level(scan): scan for scan in scans if scan.level == STANDARD}
    moved = [scan for scan in scans if scan.level and scan.level != STANDARD]
    return [(still[key], scan) for scan in moved if (key := _apart_from_level(scan)) in still]


def without_bad_stills(scans: Iterable[BidsScan], worst: int = GOOD) -> list[BidsScan]:
    """The scans without those that should be still but were rated worse than ``worst``.

    In MR-ART 29 of 148 standard scans were rated 2 or 3: motion that training would take for anatomy. Standard scans
    that nobody rated stay.
    """
    return [scan for scan in scans if not (scan.level == STANDARD and (scan.score or GOOD) > worst)]


def _apart_from_level(scan: BidsScan) -> frozenset[tuple[str, str]]:
    return frozenset((key, value) for key, value in scan.entities.items() if key != "acq")


def _scan(path: Path, entities: dict[str, str], scores: dict[frozenset[tuple[str, str]], int]) -> BidsScan:
    acquisition = entities.get("acq", "")
    level = acquisition if acquisition == STANDARD or MOTION_LEVEL.fullmatch(acquisition) else ""
    score = scores.get(frozenset(entities.items()))
    return BidsScan(path, entities["sub"], entities.get("ses", ""), entities, level, score)


def nothing_found(folder: Path) -> str:
    """That no scan is named as BIDS asks, and the first one that is named otherwise."""
    example = next((path for path in sorted(folder.rglob("*")) if NIFTI.search(path.name)), None)
    wanted = f"sub-ID/anat/sub-ID_acq-standard_{SUFFIX}.nii.gz"
    if example is None:
        return f"{folder}: no NIfTI file is in this folder; give a BIDS dataset with scans named {wanted}"
    return (
        f"{folder}: no scan is named as BIDS asks ({wanted}), the first one is {example.relative_to(folder)}; rename "
        "them, or make a cohort of still scans with braindiff simulate-cohort"
    )


def misplaced(folder: Path, named: Mapping[Path, Mapping[str, str]]) -> dict[Path, str]:
    """What is wrong with files in folders that do not repeat subject and session of their names."""
    wrong = {}
    for path, entities in named.items():
        place = path.relative_to(folder).parts[:-2]
        said = tuple(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities)
        if place != said:
            wrong[path] = f"lies in {'/'.join(place)} but is named {'_'.join(said)}; move or rename it"
    return wrong


def doubled(named: Mapping[Path, Mapping[str, str]]) -> dict[Path, str]:
    """What is wrong with files of the same entities as one before."""
    seen: dict[frozenset[tuple[str, str]], Path] = {}
    first = {path: seen.setdefault(frozenset(entities.items()), path) for path, entities in named.items()}
    return {
        path: f"the same scan as {other.name} by its name; remove one of the two"
        for path, other in first.items() if other != path
    }  # fmt: skip


def without_content(paths: Iterable[Path]) -> list[Path]:
    """Those that are empty, or links to nothing."""
    return [path for path in paths if not (path.is_file() and path.stat().st_size > 0)]


def _read_scores(folder: Path) -> dict[frozenset[tuple[str, str]], int]:
    """Scores by the entities of the scan; empty where there is no table."""
    table = next((folder / name for name in SCORE_FILES if (folder / name).exists()), None)
    if table is None:
        return {}
    scores: dict[frozenset[tuple[str, str]], int] = {}
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); repair or remove the table of scores") from error
    for number, row in enumerate(rows, start=2):
        if (entry := _score(f"{table}, line {number}", row)) is None:
            continue
        key, score = entry
        if scores.setdefault(key, score) != score:
            raise InputError(f"{table}, line {number}: {row['bids_name']} has two scores; remove one of the lines")
    return scores


def _score(place: str, row: Mapping[str, str | None]) -> tuple[frozenset[tuple[str, str]], int] | None:
    """The entities and the score of one line; None for a scan that was not rated or is no T1w."""
    name, text = row.get("bids_name"), row.get("score")
    if name is None or text is None:
        raise InputError(f"{place}: the columns bids_name and score are needed, separated by a tab; repair the table")
    entities = parse_name(name.strip())
    if entities is None or text.strip().lower() in ("", "n/a"):
        return None
    if text.strip() not in map(str, SCORES):
        raise InputError(f"{place}: the score is {text.strip()!r}, not 1, 2, 3 or n/a; repair the line")
    return frozenset(entities.items()), int(text)
