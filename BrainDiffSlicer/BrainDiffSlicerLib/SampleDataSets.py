"""The data sets that the Sample Data module offers for BrainDiff."""

from __future__ import annotations

import json
from pathlib import Path

from BrainDiffSlicerLib.ExtensionFiles import resourcePath

CATEGORY = "BrainDiff"
DOWNLOADS = "https://github.com/BrainDiff/SlicerBrainDiff/releases/download/SampleData/"
MANIFEST = "SampleData.json"
"""In Resources: {"released": whether the files are at DOWNLOADS, "files": [{"name": file name, "title": ...,
"sha256": ..., "thumbnail": file in Icons}, ...]}."""
MADE_HERE = "sample-data"
"""Where ``make sample-data`` writes them in a checkout."""


class SampleDataSets:
    """Registers the data sets; nothing is downloaded before the user clicks one."""

    @staticmethod
    def register() -> None:
        """Add the data sets that can be fetched to the Sample Data module, each with its checksum."""
        import SampleData

        with open(resourcePath(MANIFEST), encoding="utf-8") as manifest:
            offered = json.load(manifest)
        for file in offered["files"]:
            here = Path(resourcePath("")).parent / MADE_HERE / file["name"]
            if not here.is_file() and not offered["released"]:
                continue
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category=CATEGORY,
                sampleName=file["title"],
                thumbnailFileName=resourcePath("Icons/" + file["thumbnail"]),
                uris=here.as_uri() if here.is_file() else DOWNLOADS + file["name"],
                fileNames=file["name"],
                checksums="SHA256:" + file["sha256"],
                nodeNames=Path(file["name"]).stem,
            )
