"""The data sets that the Sample Data module offers for BrainDiff."""

from __future__ import annotations

import json
from pathlib import Path

from BrainDiffSlicerLib.ExtensionFiles import resourcePath

CATEGORY = "BrainDiff"
DOWNLOADS = "https://github.com/BrainDiff/SlicerBrainDiff/releases/download/SampleData/"
MANIFEST = "SampleData.json"
"""In Resources: {"files": [{"name": file name, "title": ..., "sha256": ..., "thumbnail": file in Icons}, ...]}."""


class SampleDataSets:
    """Registers the data sets; nothing is downloaded before the user clicks one."""

    @staticmethod
    def register() -> None:
        """Add the data sets to the Sample Data module, each with its checksum."""
        import SampleData

        with open(resourcePath(MANIFEST), encoding="utf-8") as manifest:
            files = json.load(manifest)["files"]
        for file in files:
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category=CATEGORY,
                sampleName=file["title"],
                thumbnailFileName=resourcePath("Icons/" + file["thumbnail"]),
                uris=DOWNLOADS + file["name"],
                fileNames=file["name"],
                checksums="SHA256:" + file["sha256"],
                nodeNames=Path(file["name"]).stem,
            )
