"""What the readers of a study said, unblinded, and how sure that is."""

from __future__ import annotations

import csv
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from BrainDiffSlicerLib.ReaderStudy import KEY, QUALITIES, RATINGS

DRAWS, SEED = 2000, 0
"""Of the bootstrap over pairs."""
Z95 = 1.959964
CATEGORIES = 5
IMAGES = {"original": ("original", "corrected"), "corrected": ("corrected", "original")}
"""Left and right, by what a key says of the left one."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


class ReaderAgreement:
    """Ratings of all readers beside a list of pairs, by reader, quality and image.

    readers     names, sorted
    scores      {reader: {(pair, quality, "original" or "corrected"): 1 to 5}}; a lesion that was not there is left out
    preference  {reader: {pair: -2 to 2}}, above 0 for the corrected image
    """

    def __init__(self, folder: Path) -> None:
        """Read the folders beside the list. Raises ValueError, which names the file, where one is missing or is not as
        the study wrote it, and where nothing is rated.
        """
        self.scores: dict[str, dict[tuple[str, str, str], int]] = {}
        self.preference: dict[str, dict[str, int]] = {}
        for file in sorted((Path(folder) / RATINGS).glob("*.csv")):
            key = Path(folder) / KEY / file.name
            if not key.is_file():
                raise ValueError(f"{key}: the key of this reader is missing")
            try:
                sides = {row["trial"]: (row["name"], IMAGES[row["left"]]) for row in self._rows(key)}
            except (KeyError, ValueError, csv.Error):
                raise ValueError(f"{key}: not as the study wrote it; restore this file") from None
            try:
                self._take(file.stem, self._rows(file), sides)
            except (KeyError, ValueError, csv.Error):
                raise ValueError(f"{file}: not as the study wrote it, or {key} has not all its pairs") from None
        self.readers = sorted(reader for reader, ratings in self.preference.items() if ratings)
        if not self.readers:
            raise ValueError(f"{folder}: no pair is rated yet")

    @staticmethod
    def _rows(file: Path) -> list[dict[str, str]]:
        with open(file, encoding="utf-8", newline="") as opened:
            return [row for row in csv.DictReader(opened) if None not in row.values()]

    def _take(self, reader: str, rows: list[dict[str, str]], sides: dict[str, tuple[str, tuple[str, str]]]) -> None:
        scores, preference = self.scores.setdefault(reader, {}), self.preference.setdefault(reader, {})
        for row in rows:
            name, (left, right) = sides[row["trial"]]
            for quality in QUALITIES:
                for side, image in (("left", left), ("right", right)):
                    if int(row[f"{side}_{quality}"]):
                        scores[name, quality, image] = int(row[f"{side}_{quality}"])
            toTheRight = int(row["preference"]) - 3
            preference[name] = toTheRight if right == "corrected" else -toTheRight

    def kappas(self) -> list[tuple[str, str, str, Estimate]]:
        """(reader, other reader, what, quadratically weighted kappa) for each quality and the preference."""
        found = []
        for first, second in combinations(self.readers, 2):
            for quality in QUALITIES:
                ratings = [{k: v for k, v in self.scores[who].items() if k[1] == quality} for who in (first, second)]
                found.append((first, second, quality, self._kappa(*ratings)))
            liked = [{(k,): v + 3 for k, v in self.preference[who].items()} for who in (first, second)]
            found.append((first, second, "preference", self._kappa(*liked)))
        return found

    def _kappa(self, first: dict[tuple[str, ...], int], second: dict[tuple[str, ...], int]) -> Estimate:
        both = sorted(first.keys() & second.keys())
        values = np.array([(first[each], second[each]) for each in both]).reshape(-1, 2)
        names = [each[0] for each in both]
        return bootstrapped(values, names, lambda chosen: weighted_kappa(chosen[:, 0], chosen[:, 1]))

    def gains(self, reader: str) -> dict[str, tuple[float, float, Estimate]]:
        """By quality: mean score of the originals, of the corrected images, and the mean gain within pairs."""
        found = {}
        for quality in QUALITIES:
            both = {image: {k[0]: v for k, v in self.scores[reader].items() if k[1:] == (quality, image)}
                    for image in ("original", "corrected")}  # fmt: skip
            names = sorted(both["original"].keys() & both["corrected"].keys())
            values = np.array([[both[image][name] for image in both] for name in names], float).reshape(-1, 2)
            means = values.mean(axis=0) if names else np.full(2, np.nan)
            gain = bootstrapped(values, names, lambda chosen: float((chosen[:, 1] - chosen[:, 0]).mean()))
            found[quality] = (float(means[0]), float(means[1]), gain)
        return found

    def preferred(self, reader: str) -> tuple[int, int, int, Estimate]:
        """Pairs in which the corrected image, neither, and the original was better, and the share of the first among
        those with a winner (Wilson's interval)."""
        values = list(self.preference[reader].values())
        better, worse = sum(value > 0 for value in values), sum(value < 0 for value in values)
        return better, len(values) - better - worse, worse, wilson(better, better + worse)


def weighted_kappa(first: np.ndarray, second: np.ndarray, categories: int = CATEGORIES) -> float:
    """Cohen's kappa of two readers' ratings 1 to ``categories`` with quadratic weights (Cohen 1968); NaN where neither
    varies, because there is no chance to agree by."""
    table = np.zeros((categories, categories))
    np.add.at(table, (np.asarray(first) - 1, np.asarray(second) - 1), 1.0)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1.0)
    grade = np.arange(categories)
    weights = (grade[:, np.newaxis] - grade) ** 2
    by_chance = (weights * expected).sum()
    return float(1 - (weights * table).sum() / by_chance) if by_chance > 0 else float("nan")


def bootstrapped(values: np.ndarray, names: list[str], statistic) -> Estimate:
    """The statistic of ``values`` (rows), and its percentile interval where the pairs, not the rows, are drawn anew."""
    if len(values) == 0:
        return Estimate(*[float("nan")] * 3)
    draw = np.random.default_rng(SEED)
    unique = sorted(set(names))
    rows = [np.flatnonzero(np.array(names) == name) for name in unique]
    found = []
    for _ in range(DRAWS):
        chosen = np.concatenate([rows[index] for index in draw.integers(0, len(rows), len(rows))])
        found.append(statistic(values[chosen]))
    found = np.array(found)[np.isfinite(found)]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (float("nan"),) * 2
    return Estimate(statistic(values), float(low), float(high))


def wilson(successes: int, count: int) -> Estimate:
    """A share and Wilson's 95 % interval of it."""
    if count == 0:
        return Estimate(*[float("nan")] * 3)
    share, square = successes / count, Z95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 * sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
