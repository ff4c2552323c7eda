"""What the BIDS sidecar of a NIfTI file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.nifti import nifti_affine

PATIENT_AXES = ("LR", "AP", "SI")
"""Named by their ends, in the order of RAS."""


def read_sidecar(image: str | Path) -> dict[str, Any]:
    """The entries of NAME.json beside NAME.nii or NAME.nii.gz; none where there is no such file.

    Raises InputError for a sidecar that is no JSON object.
    """
    image = Path(image)
    sidecar = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{sidecar}: not a readable sidecar ({error}); repair or remove it") from None
    if not isinstance(content, dict):
        raise InputError(f"{sidecar}: not a readable sidecar (no JSON object); repair or remove it")
    return content


def phase_encoding(image: str | Path, content: dict[str, Any] | None = None) -> str | None:
    """The patient axis, "LR", "AP" or "SI", that a NIfTI file's sidecar names; None where it names none.

    "j-" is the second array axis. dcm2niix writes PhaseEncodingAxis ("j") where it does not know the sign; our own
    simulated cohorts name the patient axis. Of a 3D scan it names one of its two phase-encoded axes.
    """
    content = read_sidecar(image) if content is None else content
    named = content.get("PhaseEncodingAxis") or content.get("PhaseEncodingDirection")
    if named in PATIENT_AXES:
        return str(named)
    array_axis = str(named or "")[:1]
    if array_axis not in ("i", "j", "k"):
        return None
    along = nifti_affine(Path(image))[:3, "ijk".index(array_axis)]
    return PATIENT_AXES[int(np.argmax(np.abs(along)))]


def phase_encoding_beside(source: str | Path) -> str | None:
    """``phase_encoding`` of a file, where it is NIfTI and has a readable sidecar that says it; else None."""
    if not str(source).endswith((".nii", ".nii.gz")):
        return None
    try:
        return phase_encoding(source)
    except InputError:
        return None
