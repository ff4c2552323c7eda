"""NIfTI-1 and NIfTI-2 files, single (.nii, .nii.gz) and, to read, pairs (.hdr/.img), and their BIDS sidecars."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.contrast import contrast_notes
from BrainDiffLogic.images.streams import GZIP, check_length, check_voxels, opened, understood, write_image
from BrainDiffLogic.volume import Storage, Volume, real_values

FORMS = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
GEOMETRY = ("pixdim", *FORMS, "sform_code", "srow_x", "srow_y", "srow_z")
SCAN = ("xyzt_units", "descrip", "aux_file", "dim_info", "toffset", "slice_code", "slice_duration")
EXTRAS = (*SCAN, "slice_start", "slice_end")
DISPLAY = ("cal_min", "cal_max", "intent_code", "intent_name", "intent_p1", "intent_p2", "intent_p3")
"""Header fields that an output repeats: on the same grid, always, and for an image of the input's kind."""
SCANNER = 1
"""Code of an sform or qform in scanner coordinates."""
HEADERS = {348: (nib.Nifti1Header, Nifti1PairHeader), 540: (nib.Nifti2Header, Nifti2PairHeader)}
"""Single and pair, by the size of the header, its first number."""
MAGIC = {348: (344, 348), 540: (4, 8)}
"""Where the bytes lie that tell NIfTI from Analyze."""
ROUNDED = 1e-2
"""How much longer than 1 rounding makes a quaternion, squared; FSL and ITK take it for a half turn."""
NO_AXES = (
    "the header does not say how the axes lie in the patient (sform_code and qform_code are 0): the array's axes are"
    " taken to run to the left, the front and the top; other programs may take them otherwise"
)
APART_MM = 1.0
FORMS_DISAGREE = (
    "sform and qform place the volume differently: the sform is taken; programs that take the qform show it elsewhere"
)
CONTRAST = re.compile(r"_ce-([A-Za-z0-9]+)_")
NO_SIZE = "the header gives no voxel size (pixdim is 0): 1 mm is taken"


def read_nifti(path: Path, kind: str) -> Volume:
    """One 3D scalar volume from a NIfTI file of either byte order; InputError for anything else."""
    with understood(path, "NIfTI"), _opened(path) as (header, notes, stream):
        _check_header(header, path)
        needed = int(header["vox_offset"]) + int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
        check_length(_parts(path)[-1], "NIfTI", needed)
        proxy = ArrayProxy(stream, header, mmap=False)
        slope, intercept = float(proxy.slope), float(proxy.inter)
        raw = proxy.get_unscaled()
    raw = raw.reshape(raw.shape[:3], order="F")
    raw = raw.astype(np.float64 if raw.dtype.itemsize > 8 else raw.dtype.newbyteorder("="), copy=False)
    array = raw if (slope, intercept) == (1.0, 0.0) else real_values(raw, slope, intercept)
    if raw.dtype.kind == "f":
        slope, intercept = 1.0, 0.0
    version = "nifti2" if isinstance(header, nib.Nifti2Header) else "nifti1"
    storage = Storage(raw.dtype if raw.dtype.kind in "iu" else array.dtype, slope, intercept, version, header)
    notes = (*notes, *contrast_notes(_contrast_agent(path)))
    return Volume.read(array, header.get_best_affine(), notes, kind=kind, storage=storage, source=str(path))


def _contrast_agent(path: Path) -> str:
    """As the name or the sidecar tell it, in the words of BIDS; "" where they tell none."""
    with suppress(InputError):
        if agent := read_sidecar(path).get("ContrastBolusIngredient"):
            return str(agent)
    entity = CONTRAST.search(path.name)
    return entity[1] if entity else ""


def is_analyze(path: Path) -> bool:
    """Whether the header of a pair lacks the word that tells NIfTI from Analyze 7.5."""
    with understood(path, "NIfTI"), opened(_parts(path)[0], verified=False) as header:
        start = header.read(348)
    sized = start[:4] in ((348).to_bytes(4, "little"), (348).to_bytes(4, "big"))
    return len(start) == 348 and sized and start[344:345] != b"n"


def nifti_affine(path: Path) -> np.ndarray:
    """(4, 4) IJK to RAS mm of a NIfTI file, of which only the header is read."""
    with understood(path, "NIfTI"), ExitStack() as stack:
        return stack.enter_context(_opened(path, verified=False))[0].get_best_affine()


def write_nifti(stored: np.ndarray, volume: Volume, storage: Storage, path: Path) -> None:
    """Write stored voxels with the slope and header of ``storage``; NIfTI-2 where the input was NIfTI-2."""
    image_class = nib.Nifti2Image if storage.format == "nifti2" else nib.Nifti1Image
    header = image_class.header_class()
    header.set_data_shape(stored.shape)
    header.set_data_dtype(stored.dtype)
    header.set_xyzt_units("mm")
    old = storage.header if isinstance(storage.header, nib.Nifti1Header) else None
    if old is not None:
        for name in EXTRAS + (DISPLAY if volume.kind == "magnitude" else ()):
            header[name] = old[name]
    if old is not None and np.array_equal(old.get_best_affine(), volume.affine):
        for name in GEOMETRY:
            header[name] = old[name]
    else:
        _set_geometry(header, volume.affine)
    image = image_class(stored, None, header)
    image.header.set_slope_inter(storage.slope, storage.intercept)
    write_image(image, path)


def _set_geometry(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    header.set_sform(affine, code=SCANNER)
    header.set_qform(affine, code=SCANNER)
    if not np.allclose(header.get_qform(), affine, atol=1e-3):  # a quaternion cannot hold shears
        header["qform_code"] = 0


@contextmanager
def _opened(path: Path, verified: bool = True) -> Iterator[tuple[nib.Nifti1Header, tuple[str, ...], io.BufferedIOBase]]:
    """The header, what is worth a note in it, and the file with the voxels."""
    with ExitStack() as stack:
        header_file, *voxels = [stack.enter_context(opened(file, verified)) for file in _parts(path)]
        start = header_file.read(540)
        header_file.seek(0)
        size = next((size for size in HEADERS if start[:4] in (size.to_bytes(4, "little"), size.to_bytes(4, "big"))), 0)
        if start[:2] == GZIP:
            raise InputError(f"{path}: gzipped twice; unpack it once")
        if not size:
            raise InputError(f"{path}: this is no NIfTI file, or it is damaged; copy it again")
        magic = start[slice(*MAGIC[size])]
        if magic[:1] != b"n":
            raise InputError(f"{path}: Analyze 7.5 does not say which side is left; convert the scan to .nii.gz")
        single = magic[1:2] == b"+"
        if single == bool(voxels):
            wanted = "one .nii file" if single else "a pair, .hdr and .img"
            raise InputError(f"{path}: the header says that this is {wanted}; rename it or convert the scan again")
        header = HEADERS[size][not single](header_file.read(size), check=False)
        if single and header["vox_offset"] < header.single_vox_offset:
            header["vox_offset"] = 0
        _fill_dimensions(header)
        notes = _notes(header)
        header.check_fix()
        if single and not header["vox_offset"]:
            header["vox_offset"] = _behind_the_header(header, header_file)
        _shorten_rounded(header, path)
        yield header, notes, (voxels or [header_file])[0]


def _parts(path: Path) -> list[Path]:
    """The file, or of a pair the header and the voxels, in either case gzipped or not."""
    name = path.name.removesuffix(path.suffix) if path.suffix.lower() == ".gz" else path.name
    stem, suffix = Path(name).stem, Path(name).suffix
    if suffix.lower() not in (".hdr", ".img"):
        return [path]
    parts = []
    for wanted in (".hdr", ".img"):
        other = wanted.upper() if suffix.isupper() else wanted
        beside = [path.with_name(stem + other + end) for end in (path.name[len(name) :], "", ".gz")]
        part = next((file for file in beside if file.exists()), None)
        if part is None:
            raise InputError(f"{path}: {beside[0].name} is missing beside it; copy both files of the pair")
        parts.append(part)
    return parts


def _behind_the_header(header: nib.Nifti1Header, file: io.BufferedIOBase) -> int:
    """Where the voxels begin in a file that says they begin within its header: behind it, or 4 bytes later."""
    file.seek(header.single_vox_offset)
    needed = int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
    return int(header.single_vox_offset if len(file.read(needed)) == needed else header.sizeof_hdr)


def _fill_dimensions(header: nib.Nifti1Header) -> None:
    """Dimensions behind the third that are 0 count as 1, as FSL and ITK take them."""
    sizes = np.array(header["dim"])
    behind = np.arange(sizes.size) > 3
    header["dim"] = np.where(behind & (sizes == 0), 1, sizes)


def _notes(header: nib.Nifti1Header) -> tuple[str, ...]:
    sizes = header["pixdim"][1:4]
    sform, qform = header["sform_code"] > 0, header["qform_code"] > 0
    conditions = [
        (not sform and not np.all(sizes), NO_SIZE), (not sform and not qform, NO_AXES),
        (sform and qform and _forms_disagree(header), FORMS_DISAGREE),
    ]  # fmt: skip
    return tuple(note for is_so, note in conditions if is_so)


def _forms_disagree(header: nib.Nifti1Header) -> bool:
    """Whether the corners of the volume lie further apart by the two forms than rounding moves them."""
    try:
        difference = header.get_sform() - header.get_qform()
    except (HeaderDataError, ValueError):
        return False
    corners = np.array(np.meshgrid(*((0, size - 1) for size in header.get_data_shape()[:3]), 1)).reshape(4, -1)
    with np.errstate(over="ignore", invalid="ignore"):  # Volume says what is wrong with the affine
        apart = float(np.linalg.norm(difference[:3] @ corners, axis=0).max())
    return apart > APART_MM


def _shorten_rounded(header: nib.Nifti1Header, path: Path) -> None:
    """Scale a quaternion that rounding has made longer than 1 back to 1."""
    quaternion = np.array([header[f"quatern_{part}"] for part in "bcd"], dtype=np.float64)
    length = float(quaternion @ quaternion)
    if length > 1 + ROUNDED and header["qform_code"] > 0 and not header["sform_code"] > 0:
        raise InputError(f"{path}: the qform's quaternion is longer than 1 (squared: {length:.3g}); repair the header")
    if 1 < length <= 1 + ROUNDED:
        for part, value in zip("bcd", quaternion / np.sqrt(length), strict=True):
            header[f"quatern_{part}"] = value


def _check_header(header: nib.Nifti1Header, path: Path) -> None:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if 0 in shape:
        raise InputError(f"{path}: the volume is empty (shape {shape}); export the scan again")
    if len(shape) < 3:
        raise InputError(f"{path}: a 2D image of shape {shape}; give the whole 3D volume")
    if len(shape) == 4 and shape[3] > 1:
        raise InputError(f"{path}: a 4D file of {shape[3]} volumes; extract one of them and give that")
    if max(shape[4:], default=1) > 1:
        raise InputError(f"{path}: an image of shape {shape} with several values a voxel; extract one 3D volume")
    check_voxels(path, shape)
    if dtype.fields is not None:
        raise InputError(f"{path}: a colour image; give the grey-value scan it was made from")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels of type {dtype} are not real numbers; save the magnitude image")
    if int(header["xyzt_units"]) & 7 in (1, 3):
        unit = header.get_xyzt_units()[0]
        raise InputError(f"{path}: the header gives lengths in {unit}s; convert the geometry and xyzt_units to mm")


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
