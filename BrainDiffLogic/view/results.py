"""The archive that a person takes away: corrected volume, difference and a report with the provenance of both."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from BrainDiffLogic.correction import Correction
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.digests import file_digest
from BrainDiffLogic.images.outputs import WRITABLE, file_suffix
from BrainDiffLogic.view.uploads import safe_name

SINGLE = tuple(suffix for suffix in WRITABLE if suffix not in (".nhdr", ".mhd"))
"""Types of volume that are one file."""


def write_results(correction: Correction, source: Path, name: str, folder: Path) -> Path:
    """Write the archive to ``folder``; returns its path.

    source  the file, or folder of DICOM files, that was corrected; name: what the person calls it
    The volumes are those of ``braindiff correct``; the report also holds the digest of ``source``.
    """
    suffix = file_suffix(name) if file_suffix(name) in SINGLE else ".nii.gz"
    stem = safe_name(name).removesuffix(suffix).removesuffix(Path(name).suffix) or "scan"
    place = folder / "results"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    corrected, difference = (place / f"{stem}_{part}{suffix}" for part in ("corrected", "difference"))
    report = place / f"{stem}_report.json"
    facts = write_correction(correction, corrected, difference, report)
    facts["outputs"] = {key: Path(path).name for key, path in facts["outputs"].items()}
    facts["input_sha256"] = file_digest(source)
    report.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    archive = place / f"{stem}_braindiff.zip"
    with zipfile.ZipFile(archive, "w") as target:  # the volumes are packed already
        for file in (corrected, difference, report):
            target.write(file, file.name)
    return archive
