"""What a series made from a scan is called, in DICOM files and in 3D Slicer's subject hierarchy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Part = Literal["corrected", "difference", "disagreement"]
PARTS: dict[Part, int] = {"corrected": 1, "difference": 2, "disagreement": 3}
"""What a correction gives, and what each adds to a hundredfold series number."""
LONGEST_TEXT = 64
"""Characters of a DICOM text of the type LO."""
LARGEST_NUMBER = 2**31 - 1
"""Of a DICOM integer string."""
MANUFACTURER, SOFTWARE = "BrainDiff", "BrainDiff"
SLICER_PREFIX = "DICOM."
"""How 3D Slicer names the attribute of a subject hierarchy item that holds a tag."""


def derived_description(description: str, part: Part = "corrected") -> str:
    """The SeriesDescription of what was made from a series with this one; that it is for research is never cut off.

    >>> derived_description("t1_mprage_sag")
    't1_mprage_sag BrainDiff corrected (research)'
    """
    suffix = f"BrainDiff {part} (research)"
    kept = " ".join(description.split())[: LONGEST_TEXT - len(suffix) - 1].rstrip()
    return f"{kept} {suffix}".lstrip()


def derived_number(number: str | int | None, part: Part = "corrected") -> int:
    """The SeriesNumber of what was made from a series with this one, beside the source in any list.

    >>> derived_number("4"), derived_number("4", "difference"), derived_number(None)
    (401, 402, 9001)
    """
    try:
        source = int(float(number)) if number not in (None, "") else 90
    except (ValueError, OverflowError):
        source = 90
    derived = 100 * abs(source) + PARTS[part]
    return derived if derived <= LARGEST_NUMBER else 9000 + PARTS[part]


def slicer_attributes(source: Mapping[str, str], part: Part = "corrected", name: str = "") -> dict[str, str]:
    """Attributes for the subject hierarchy item of an output volume in 3D Slicer, from those of the input's item.

    source  the attributes of the input's item by name, as Slicer's DICOM import sets them ("DICOM.Modality",
            "DICOM.SeriesNumber", ...); empty for a volume that came from elsewhere
    name    of the input volume, which stands for the description that Slicer's import does not keep

    Slicer's scalar volume exporter asks the item for each series tag, and writes modality CT and "No series
    description" where it has none. Patient and study it takes from the item's parents: put the item under the input's
    study (``SetItemParent``). The series' own UID is left to the exporter, which makes a new one.

    >>> slicer_attributes({"DICOM.SeriesNumber": "4"}, name="4: t1")["DICOM.SeriesDescription"]
    't1 BrainDiff corrected (research)'
    """
    number = source.get(f"{SLICER_PREFIX}SeriesNumber", "")
    named = source.get(f"{SLICER_PREFIX}SeriesDescription") or name.removeprefix(f"{number}: ")
    tags = {
        "Modality": "MR",  # what is corrected is an MR image, also where nothing says so
        "SeriesDescription": derived_description(named, part),
        "SeriesNumber": str(derived_number(number, part)),
        "Manufacturer": source.get(f"{SLICER_PREFIX}Manufacturer") or MANUFACTURER,
        "Model": source.get(f"{SLICER_PREFIX}Model") or SOFTWARE,
    }
    frames = ("FrameOfReferenceUID", "FrameOfReferenceInstanceUID")  # by Slicer's hierarchy, and by its exporter
    for frame in filter(None, (source.get(SLICER_PREFIX + name) for name in frames)):
        tags |= dict.fromkeys(frames, frame)
    return {f"{SLICER_PREFIX}{tag}": value for tag, value in tags.items()}
