"""A blinded comparison of pairs by one reader: order, sides, ratings, and where they are kept."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from slicer.i18n import tr as _

RATINGS, KEY = "ratings", "key"
"""Folders beside the list: what the reader said, and, apart from it, which image was which."""
IMAGES = ("left", "right")
QUALITIES = ("artifact", "sharpness", "lesions")
QUESTIONS = (*(f"{image}_{quality}" for quality in QUALITIES for image in IMAGES), "preference")
"""The columns of the ratings. Qualities: 1 worst to 5 best, 0 for a lesion that neither image may have; preference:
1 left is clearly better, 3 the same, 5 right is clearly better."""
COLUMNS = ("name", "original", "corrected")


class Pair(NamedTuple):
    """Two images of one head, and which of them is on the left for this reader."""

    name: str
    original: Path
    corrected: Path
    swapped: bool
    """Whether the corrected image is on the left."""

    @property
    def files(self) -> tuple[Path, Path]:
        """Left and right."""
        return (self.corrected, self.original) if self.swapped else (self.original, self.corrected)


class ReaderStudy:
    """The pairs of a list in the reader's own order, each rated once; an answer is kept as soon as a pair is complete.

    pairsFile  CSV file (UTF-8) with the columns name, original, corrected; paths are relative to it
    reader     name of the reader; order and sides depend on it and on the seed

    Half of the pairs are swapped. Raises ValueError, in one line that names the file, where the list cannot be used, or
    is another than the one with which this reader began.

    Usage::

      study = ReaderStudy(Path("pairs.csv"), "anna", seed=1)
      while study.pair:
          show(*study.pair.files)
          study.answer(askFor(study.question))
    """

    def __init__(self, pairsFile: Path, reader: str, seed: int) -> None:
        if not reader.strip() or reader.strip() != Path(reader.strip()).name:
            raise ValueError(_("Enter a reader's name that can be the name of a file."))
        self._list, self._reader = Path(pairsFile), reader.strip()
        self.pairs = self._shuffled(self._read(), seed)
        self._keep()
        self._answers: dict[str, int] = {}
        self.trial = len(self._rated())

    @property
    def pair(self) -> Pair | None:
        """The pair that is rated now; None when all are."""
        return self.pairs[self.trial] if self.trial < len(self.pairs) else None

    @property
    def question(self) -> str:
        """The one of QUESTIONS that is asked now."""
        return QUESTIONS[len(self._answers)]

    @staticmethod
    def allowed(question: str) -> tuple[int, ...]:
        """The answers that a question takes."""
        return tuple(range(0 if question.endswith("lesions") else 1, 6))

    def answer(self, value: int) -> bool:
        """Answer the question; False if it does not take this answer. After the last one comes the next pair."""
        if self.pair is None or value not in self.allowed(self.question):
            return False
        self._answers[self.question] = value
        if len(self._answers) == len(QUESTIONS):
            self._write(self.ratingsFile, [self.trial + 1, *self._answers.values(), self._now()])
            self._answers.clear()
            self.trial += 1
        return True

    def back(self) -> None:
        """Take the last answer of this pair back."""
        if self._answers:
            self._answers.popitem()

    @property
    def ratingsFile(self) -> Path:
        """The reader's answers by number of the pair; which image is which is not in it."""
        return self._list.parent / RATINGS / f"{self._reader}.csv"

    @property
    def keyFile(self) -> Path:
        """The names of the pairs by number, and which image was on the left."""
        return self._list.parent / KEY / f"{self._reader}.csv"

    def _read(self) -> list[tuple[str, Path, Path]]:
        try:
            with open(self._list, encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.DictReader(file) if any((value or "").strip() for value in row.values())]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(_("{file} cannot be read: {error}").format(file=self._list, error=error)) from None
        if not rows or any(not (row.get(column) or "").strip() for row in rows for column in COLUMNS):
            text = _("{file} needs the columns {columns}, filled in each line.")
            raise ValueError(text.format(file=self._list, columns=", ".join(COLUMNS)))
        found = [(row["name"].strip(), *(self._list.parent / row[c].strip() for c in COLUMNS[1:])) for row in rows]
        if len({name for name, *_files in found}) < len(found):
            raise ValueError(_("{file} has a name twice.").format(file=self._list))
        missing = [file for _name, *files in found for file in files if not file.is_file()]
        if missing:
            text = _("{file} names {missing}, which is not there.")
            raise ValueError(text.format(file=self._list, missing=missing[0]))
        return found

    def _shuffled(self, rows: list[tuple[str, Path, Path]], seed: int) -> list[Pair]:
        draw = random.Random(f"{seed}/{self._reader}")
        swapped = [index % 2 == 1 for index in range(len(rows))]
        draw.shuffle(swapped)
        pairs = [Pair(*row, side) for row, side in zip(rows, swapped, strict=True)]
        draw.shuffle(pairs)
        return pairs

    def _keep(self) -> None:
        """Write the key once; a reader who comes back must find the same."""
        rows = [["trial", "name", "left"]]
        rows += [
            [str(place), pair.name, "corrected" if pair.swapped else "original"]
            for place, pair in enumerate(self.pairs, start=1)
        ]
        if not self.keyFile.exists():
            for row in rows:
                self._write(self.keyFile, row)
        with open(self.keyFile, encoding="utf-8", errors="replace", newline="") as file:
            if list(csv.reader(file)) != rows:
                text = _("The list or the seed is another than that with which {reader} began: see {file}.")
                raise ValueError(text.format(reader=self._reader, file=self.keyFile))
        if not self.ratingsFile.exists():
            self._write(self.ratingsFile, ["trial", *QUESTIONS, "time"])

    def _rated(self) -> list[list[str]]:
        with open(self.ratingsFile, encoding="utf-8", newline="") as file:
            return [row for row in list(csv.reader(file))[1:] if len(row) == len(QUESTIONS) + 2]

    @staticmethod
    def _write(path: Path, row: list) -> None:
        path.parent.mkdir(exist_ok=True)
        with open(path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)

    @staticmethod
    def _now() -> str:
        return datetime.now(UTC).isoformat(timespec="seconds")
