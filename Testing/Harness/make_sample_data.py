"""Make the extension's sample data: a head with simulated motion, the same head still, thumbnails and checksums.

    PYTHONPATH=. python Testing/Harness/make_sample_data.py --out sample-data

With ``--register`` checksums and thumbnails are written to Resources: only for a new release, which gets the volumes,
as the last digit of a simulated voxel depends on the processor, and with it the checksum.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from BrainDiffLogic.commands.demo import SOURCE, find_head, simulated, with_air_above
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.volume import Volume, to_sagittal

RESOURCES = Path(__file__).parents[2] / "Resources"
THUMBNAIL = (260, 280)
TITLES = {"motion": "BrainDiff: T1 with simulated motion", "clean": "BrainDiff: the same head without motion"}


def main() -> None:
    """Write the volumes to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--register", action="store_true", help="write thumbnails and checksums to Resources, too")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clean = with_air_above(read_volume(find_head()))
    moved = simulated(clean).moved
    volumes = {}
    for name, volume in (("motion", moved), ("clean", clean)):
        path = args.out / f"BrainDiff-T1-{name}.nrrd"
        volumes[path] = volume.with_array(np.rint(volume.array).astype(np.int16), storage=None)
        write_volume(volumes[path], path)
    if args.register:
        register(volumes)


def register(volumes: dict[Path, Volume]) -> None:
    """Write a thumbnail of each volume, and the names and checksums of their files, to Resources."""
    entries = []
    for path, volume in volumes.items():
        name = path.stem.rpartition("-")[2]
        thumbnail = f"BrainDiffSample{name.capitalize()}.png"
        middle_slice(volume).save(RESOURCES / "Icons" / thumbnail)
        entries.append({"name": path.name, "title": TITLES[name], "sha256": file_digest(path), "thumbnail": thumbnail})
    text = json.dumps({"source": SOURCE, "files": entries}, indent=1)
    (RESOURCES / "SampleData.json").write_text(text + "\n", encoding="utf-8")


def middle_slice(volume: Volume) -> Image.Image:
    """The middle sagittal slice, front to the left, head up, as a thumbnail on black."""
    stack = to_sagittal(volume)
    grey = np.clip(stack[len(stack) // 2].T[::-1, ::-1] / np.percentile(stack, 99.5), 0, 1)
    picture = Image.fromarray((255 * grey).astype(np.uint8))
    picture.thumbnail(THUMBNAIL)
    canvas = Image.new("L", THUMBNAIL)
    canvas.paste(picture, tuple((space - size) // 2 for space, size in zip(THUMBNAIL, picture.size, strict=True)))
    return canvas


if __name__ == "__main__":
    main()
