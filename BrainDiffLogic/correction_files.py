"""The main job on files: read, correct, write; all outputs appear, or none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.correction import Correction, correct
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import SERIES, WRITABLE, as_stored, grid_notes, is_series, read_volume, write_volume
from BrainDiffLogic.images.nifti import phase_encoding_beside
from BrainDiffLogic.images.outputs import as_json, check_outputs, staged_outputs
from BrainDiffLogic.metrics.quality import Assessment, assess
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, Card, files_of, find_checkpoint, load_checkpoint
from BrainDiffLogic.progress import Progress, part_of, silent
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import OutputType, Volume, check_strength

READING, LOADING, CORRECTING, WRITING = 0.0, 0.03, 0.08, 0.6
"""Where each stage of ``correct_file`` begins, as a share of the whole job; bad input is found below a tenth."""


def correct_file(
    source: str | Path, corrected: Path, *,
    difference: Path | None = None, report: Path | None = None, disagreement: Path | None = None,
    html: Path | None = None, model: str | Path = DEFAULT_MODEL, strength: float = 1.0, device: str = "auto",
    dtype: OutputType = "input", force: bool = False, pe_axis: str = "auto", series: str | None = None,
    overwrite: bool = False, progress: Progress = silent, cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read, correct and write one volume; returns the report.

    source      volume file or DICOM folder; corrected, difference, report, disagreement and html as in
                ``write_correction``
    pe_axis     of the model "motion": "AP", "SI", "LR", or "auto": as the sidecar says, else the likeliest
    series      number or UID of the series in a DICOM folder with several; None: its only T1-weighted head
    overwrite   replace outputs that exist
    progress    called with (share of the whole job done, stage)
    The other arguments are those of ``correction.correct``. Everything that can be wrong with the arguments is checked
    before any work is done. Raises InputError as ``read_volume``, ``load_checkpoint``, ``correct`` and
    ``check_outputs`` do, and Cancelled; nothing is written then.
    """
    check_strength(strength)
    weights = find_checkpoint(model)
    images = (*WRITABLE, SERIES)
    outputs = [(corrected, images), (difference, images), (report, (".json",)), (disagreement, WRITABLE),
               (html, (".html",))]  # fmt: skip
    named = [(path, suffixes) for path, suffixes in outputs if path]
    check_outputs(named, [source, *files_of(weights)], overwrite)
    progress(READING, "Reading")
    volume = read_volume(source, series)
    _check_series([path for path in (corrected, difference) if path and is_series(path)], volume, dtype)
    axis = phase_encoding_beside(source) if pe_axis == "auto" else pe_axis
    progress(LOADING, "Loading the model")
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_loaded, weights, device)
        scan = Scan(volume)
        scan.look()  # while PyTorch loads
        loaded = loading.result()
    progress(CORRECTING, "Correcting")
    correction = correct(
        scan, loaded, strength=strength, device=device, force=force, cancelled=cancelled,
        disagreement=disagreement is not None, pe_axis=axis,
        progress=part_of(progress, CORRECTING, WRITING - CORRECTING),
    )  # fmt: skip
    scan.forget_slices()
    progress(WRITING, "Measuring and writing" if report or html else "Writing")
    facts = write_correction(correction, corrected, difference, report, dtype, disagreement, html)
    progress(1.0, "Done")
    return facts


def _check_series(folders: list[Path], volume: Volume, dtype: OutputType) -> None:
    """Refuse folders as outputs where no DICOM series can come of it."""
    if folders and (volume.storage is None or volume.storage.format != "dicom"):
        raise InputError(f"{folders[0]}: is a folder, which takes a DICOM series; {volume.name} is none: name a file")
    if folders and dtype == "float32":
        raise InputError(f"{folders[0]}: a DICOM series of MR images holds integers; leave --dtype away or name a file")


def _loaded(weights: Path, device: str) -> tuple[Any, Card]:
    """The model, once the device is known to be there."""
    from BrainDiffLogic.inference import choose_device  # loads PyTorch, which bad input need not wait for

    choose_device(device)
    return load_checkpoint(weights)


def write_correction(
    correction: Correction, corrected: Path, difference: Path | None = None, report: Path | None = None,
    dtype: OutputType = "input", disagreement: Path | None = None, html: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the corrected volume and, where wanted, difference, report (.json) and page; returns the report.

    corrected, difference  a file, or a folder for a DICOM series, derived from the one that the input was read from
    dtype  "input": the input's type where the values fit (``images.write_volume``); "float32"
    disagreement  where to write the disagreement map, always float32; the correction was made with one
    html   where to write a page that shows it (``pages.scan_page``)

    The difference is that of the stored values: file ``corrected`` minus the input, voxel for voxel, also
    where rounding to integers moved them. The report file adds to ``Correction.report`` the no-reference
    quality before and after (``quality.assess``, both in the input's head), the stored type and the files.
    """
    files = {"corrected": corrected, "difference": difference, "report": report, "html": html}
    files["disagreement"] = disagreement
    wanted = {name: path for name, path in files.items() if path is not None}
    with staged_outputs(wanted.values()) as paths:
        staged = dict(zip(wanted, paths, strict=True))
        stored = as_stored(correction.corrected, corrected, dtype=dtype)
        done = _provenance(correction.report)
        made = {"corrected": done, "difference": f"Corrected minus source. {done}"}
        volumes: dict[str, tuple[Volume | None, OutputType]] = {
            "corrected": (stored, dtype),
            "difference": (_difference(stored, correction) if difference else None, dtype),
            "disagreement": (correction.disagreement, "float32"),
        }
        with ThreadPoolExecutor() as pool:  # numpy, scipy and zlib let go of the interpreter while they work
            writing = [
                pool.submit(write_volume, volume, staged[name], dtype=kind, provenance=made.get(name, ""))
                for name, (volume, kind) in volumes.items() if name in staged and volume is not None
            ]  # fmt: skip
            volumes.clear()  # each is freed when it is written
            measuring = measured_together(correction, stored, pool) if report or html else {}
            for job in writing:
                job.result()
        facts = {
            **correction.report,
            "notes": [*correction.report["notes"], *grid_notes(correction.corrected, corrected)],
            "stored_as": str(stored.storage.dtype) if stored.storage else "",
            "outputs": {name: str(path) for name, path in wanted.items()},
        }
        if measuring:
            facts["quality"] = {name: job.result().as_dict() for name, job in measuring.items()}
        if html:
            from BrainDiffLogic.pages import scan_page  # loads pictures and templates, which no file needs

            page = scan_page(correction, stored, facts, Path(facts["input"]).name or html.stem)
            staged["html"].write_text(page, encoding="utf-8")
        if report:
            staged["report"].write_text(as_json(facts), encoding="utf-8")
    return facts


def _provenance(report: dict[str, Any]) -> str:
    """What was done, in a sentence for the headers of a file."""
    return (
        f"Head motion corrected from the magnitude image alone by {report['software']}, model {report['model']}"
        f" {report['model_version']}, strength {report['strength']:g}. For research, not for primary diagnosis."
    )


def _difference(stored: Volume, correction: Correction) -> Volume:
    original, written = correction.finding.volume.with_fill, stored.with_fill
    array = np.subtract(written, original, dtype=np.result_type(written.dtype, original.dtype, np.float32))
    if stored.fill is not None:
        np.nan_to_num(array, copy=False)
    return correction.difference.with_array(array, storage=stored.storage)


def measured_together(correction: Correction, stored: Volume, pool: Executor) -> dict[str, Future[Assessment]]:
    """The quality of the input, "before", and of ``stored``, "after", both in the input's head, as jobs of a pool."""
    before = correction.finding.scan
    after = before.same_head(stored.array)
    return {name: pool.submit(assess, scan) for name, scan in (("before", before), ("after", after))}
