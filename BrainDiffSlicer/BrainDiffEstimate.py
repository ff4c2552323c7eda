#!/usr/bin/env python-real
"""CLI module of the panel: how far the head moved in one volume file, and where that shows most.

    PythonSlicer BrainDiffEstimate.py INPUT REPORT.json

Starts, answers and ends as BrainDiffCorrect beside it does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from BrainDiffCorrect import Parser, main, remark, say, silence, tag

NAME = "BrainDiffEstimate"


def makeParser() -> Parser:
    parser = Parser(prog=NAME, description="Estimate the head motion in a T1-weighted volume.", allow_abbrev=False)
    parser.add_argument("--xml", action="store_true", help="print the description that Slicer reads, and stop")
    parser.add_argument("input", type=Path, help="volume to look at")
    parser.add_argument(
        "report", type=Path, help="JSON file: the report's motion entries, and ras_mm of the worst slice"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    silence()
    say("<filter-start>" + tag("name", NAME) + tag("comment", "Starting") + "</filter-start>")
    remark("Loading")
    import numpy as np

    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.scan import Scan
    from BrainDiffLogic.severity import decide

    scan = Scan.of(read_volume(args.input))
    remark("Estimating motion")
    decision = decide(scan, gate=True, force=False)
    found = {**decision.facts, "plane": scan.plane, "ras_mm": None}
    if found["severity_worst_slice"] is not None:
        head = np.zeros_like(scan.head_slices)
        head[found["severity_worst_slice"]] = scan.head_slices[found["severity_worst_slice"]]
        voxel = np.argwhere(scan.uncut(head)).mean(axis=0)
        found["ras_mm"] = [round(float(value), 1) for value in (scan.volume.affine @ [*voxel, 1.0])[:3]]
    args.report.write_text(json.dumps(found), encoding="utf-8")
    say("<filter-end>" + tag("name", NAME) + "</filter-end>")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __file__, makeParser, run))
