"""One scan of a batch, from its lock to its sidecar; runs in a worker, and whatever kills that leaves no half result.

Finished is a scan by content: its main sidecar, which is written last, names the sha256 of the input, the model, the
parameters and the version that made the outputs, and the sha256 of each output. Where anything differs the scan is
done again, however new the files are.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from BrainDiffLogic import __version__
from BrainDiffLogic.cohort.items import (
    CORRECTED,
    DIFFERENCE,
    DISAGREEMENT,
    Item,
    Places,
    motion_texts,
    sidecar,
)  # fmt: skip
from BrainDiffLogic.data.bids import NO_CONTENT, without_content
from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.files import digest, file_digest
from BrainDiffLogic.images import check_source, is_dicom_file
from BrainDiffLogic.images.nifti import read_sidecar
from BrainDiffLogic.images.outputs import as_json, files_read, make_folder, staging_in, write_texts
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, files_of


@dataclass(frozen=True)
class BatchSettings:
    """How every scan of a batch is corrected; the fields are arguments of ``correction_files.correct_file``.

    device  where the network runs, which is no matter of what comes out
    """

    model: str = DEFAULT_MODEL
    strength: float = 1.0
    force: bool = False
    pe_axis: str = "auto"
    disagreement: bool = False
    device: str = "auto"

    @property
    def parameters(self) -> dict[str, Any]:
        """Those that the outputs depend on, as sidecars have them."""
        return {
            "Model": Path(self.model).stem, "Strength": self.strength, "Force": self.force,
            "PhaseEncodingAxis": self.pe_axis, "Disagreement": self.disagreement,
        }  # fmt: skip


DONE, FOUND, REFUSED, FAILED, BUSY = "done", "found", "refused", "failed", "busy"
"""found: finished by an earlier batch; refused: no head of the model's domain; busy: another batch works on it."""
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: one of the five words above, why where it was not corrected, and what it took."""

    item: Item
    status: str
    reason: str = ""
    seconds: float = 0.0
    peak_mib: int = 0


def work_on(item: Item, out: Path, settings: BatchSettings, wait: bool = False) -> Outcome:
    """Correct a scan, unless it is finished; everything that is wrong with it is in the outcome.

    wait  until another batch has done with the scan, where one works on it; else it is ``BUSY``
    Raises only what a second try may help with. One scan at a time, however many threads a worker has.
    """
    started = time.perf_counter()
    places = Places(out, item)
    if item.fault:
        _write_reason(places, FAILED, item.fault)
        return Outcome(item, FAILED, item.fault)
    with _one_at_a_time:
        try:
            with _alone(places, wait):
                status, reason = _finish(places, settings)
        except Timeout:
            status, reason = BUSY, "another batch works on it"
    return Outcome(item, status, reason, round(time.perf_counter() - started, 3), _peak_mib())


def give_up(item: Item, out: Path, reason: str) -> Outcome:
    """What is left of a scan that no worker can finish: nothing but the reason."""
    places = Places(out, item)
    try:
        with _alone(places, wait=False):
            _account(places, FAILED, reason)
    except Timeout:
        return Outcome(item, BUSY, "another batch works on it")
    return Outcome(item, FAILED, reason)


def sweep(items: Iterable[Item], out: Path) -> None:
    """Remove what killed workers left of scans that nobody works on: unfinished files, and outputs of no sidecar."""
    for places in (Places(out, item) for item in items):
        if not places.scratch.exists():
            continue
        with suppress(Timeout, InputError, OSError), _alone(places, wait=False):
            if not places.sidecar(CORRECTED).exists():
                _remove(places)
                _remove_empty(places)


@contextmanager
def _alone(places: Places, wait: bool) -> Iterator[None]:
    """Holds the scan's lock, and its scratch folder is empty; it is gone afterwards, with what a killed worker left."""
    with FileLock(places.lock, timeout=-1 if wait else 0):
        shutil.rmtree(places.scratch, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(places.scratch, ignore_errors=True)


def _finish(places: Places, settings: BatchSettings) -> tuple[str, str]:
    """Status and reason, once the outputs are there, or the reason is."""
    try:
        made_from = fingerprint(places.item, settings)
        if is_finished(places, made_from):
            places.log.unlink(missing_ok=True)
            return FOUND, ""
        _correct(places, settings, made_from)
    except InputError as error:
        status = REFUSED if isinstance(error, Refused) else FAILED
        reason = _without_folders(str(error), places)
        _account(places, status, reason)
        return status, reason
    places.log.unlink(missing_ok=True)
    return DONE, ""


def fingerprint(item: Item, settings: BatchSettings) -> dict[str, Any]:
    """All that the outputs depend on, as the sidecar has it. Raises InputError for what cannot be read."""
    weights, card, *asked = files_of(settings.model)
    check_source(item.source)
    if not item.source.is_dir() and without_content([item.source]):
        raise InputError(f"{item.source}: {'; '.join(NO_CONTENT)}")
    try:
        network = {"NetworkSHA256": digest([*map(file_digest, asked)])} if asked else {}
        return {
            "InputSHA256": _source_digest(item.source), "InputSidecarSHA256": digest(_sidecar(item)),
            "ModelSHA256": file_digest(weights), "CardSHA256": file_digest(card), **network,
            "Version": __version__, "Parameters": settings.parameters,
        }  # fmt: skip
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from error


def _source_digest(source: Path) -> str:
    """Of a file or a folder; where others belong to a file (of a series, of a pair) that of all, by their names."""
    files = [source] if source.is_dir() else files_read(source)
    if is_dicom_file(source):
        from BrainDiffLogic.images.dicom_files import find_series, tolerant

        with tolerant():
            files = list(find_series(source)[0].files)
    there = sorted(file for file in files if file.exists())
    return file_digest(source) if len(there) < 2 else digest([[file.name, file_digest(file)] for file in there])


def is_finished(places: Places, made_from: Mapping[str, Any]) -> bool:
    """Whether the outputs are those of this input, model, parameters and version, and whole."""
    try:
        said = json.loads(places.sidecar(CORRECTED).read_text(encoding="utf-8"))
        same = all(said[key] == value for key, value in made_from.items())
        sums = said["OutputSHA256"]
        return bool(same and sums and all(file_digest(places.out / name) == sums[name] for name in sums))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _correct(places: Places, settings: BatchSettings, made_from: Mapping[str, Any]) -> None:
    from BrainDiffLogic.correction_files import correct_file  # loads PyTorch, which a finished scan need not wait for

    _make_folders(places)
    _remove(places)
    item = places.item
    images = [CORRECTED, DIFFERENCE, *([DISAGREEMENT] if settings.disagreement else [])]
    with staging_in(places.scratch):
        facts = correct_file(
            item.source, places.image(CORRECTED), difference=places.image(DIFFERENCE),
            disagreement=places.image(DISAGREEMENT) if settings.disagreement else None,
            html=places.page, model=settings.model, strength=settings.strength,
            device=settings.device, force=settings.force, pe_axis=settings.pe_axis, overwrite=True,
        )  # fmt: skip
        texts = {places.sidecar(one): as_json(sidecar(item, one, _bids_facts(item))) for one in images[1:]}
        if poses := (facts.get("motion") or {}).get("trajectory"):
            texts |= dict(zip(places.motion, motion_texts(item, poses), strict=True))
        write_texts(texts)
        written = [path for path in places.every if path.exists() and path != places.sidecar(CORRECTED)]
        sums = {path.relative_to(places.out).as_posix(): file_digest(path) for path in written}
        whole = {**_bids_facts(item), **made_from, "OutputSHA256": sums, **_facts(facts, item)}
        write_texts({places.sidecar(CORRECTED): as_json(sidecar(item, CORRECTED, whole))})


def _facts(report: dict[str, Any], item: Item) -> dict[str, Any]:
    """The report of the correction in the words of BIDS, without paths of the machine."""
    from BrainDiffLogic.correction import NOT_BELIEVED

    told = {key: value for key, value in report.items() if key not in ("outputs", "quality", "motion", "input")}
    poses = ("trajectory", NOT_BELIEVED)  # the first is a table of its own
    motion = {key: value for key, value in (report.get("motion") or {}).items() if key not in poses}
    quality = {"Before": report["quality"]["before"], "After": report["quality"]["after"]}
    return {"Quality": quality, "Report": {"input": item.shown, **told, "motion": motion or None}}


def _bids_facts(item: Item) -> dict[str, Any]:
    """What the scan's own sidecar says that holds for the corrected one too."""
    said = _sidecar(item).get("SkullStripped")
    return {"SkullStripped": said} if isinstance(said, bool) else {}


def _sidecar(item: Item) -> dict[str, Any]:
    """The scan's own sidecar; nothing where there is none that can be read."""
    try:
        return read_sidecar(item.source)
    except InputError:
        return {}


def _make_folders(places: Places) -> None:
    """The folders of the outputs, within the derivatives also where something there is a link."""
    root = places.out.resolve()
    folders = {path.parent for path in places.every} | {places.scratch}
    for folder in sorted(folders):
        if not folder.resolve().is_relative_to(root):
            raise InputError(f"{folder}: leads out of {places.out}; remove the link")
        make_folder(folder, "check the disk")


def _remove(places: Places) -> None:
    """Take away outputs that no longer hold, the sidecar that says that they are whole first."""
    for path in places.every:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be replaced ({error.strerror}); check the disk") from error


def _remove_empty(places: Places) -> None:
    for folder in places.image(CORRECTED).parents:
        if folder == places.out or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _account(places: Places, status: str, reason: str) -> None:
    """Nothing of the scan remains but why it was not corrected."""
    with suppress(InputError, OSError):
        _remove(places)
        _remove_empty(places)
    _write_reason(places, status, reason)


def _write_reason(places: Places, status: str, reason: str) -> None:
    """Write why; where even that cannot be written, the outcome still tells."""
    item = places.item
    with suppress(InputError, OSError):
        places.log.parent.mkdir(exist_ok=True)
        write_texts({places.log: as_json({"Name": item.name, "Scan": item.shown, "Status": status, "Reason": reason})})


def _without_folders(reason: str, places: Places) -> str:
    """The reason with the scan called as tables call it, and outputs by their places in the derivatives."""
    source = str(places.item.source)
    return reason.replace(source, places.item.shown).replace(f"{places.out}/", "").replace("\n", " ")


def _peak_mib() -> int:
    """The most memory that this process has had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << (20 if sys.platform == "darwin" else 10)))
