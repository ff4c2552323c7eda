"""The physics of head motion in MRI: poses, trajectories and the k-space forward model."""

from BrainDiffLogic.motion.presets import PRESETS, preset
from BrainDiffLogic.motion.simulation import Simulation, simulate_motion
from BrainDiffLogic.motion.trajectory import STRATUM_NAMES, Trajectory, stratum, with_severity

__all__ = [
    "PRESETS",
    "STRATUM_NAMES",
    "Simulation",
    "Trajectory",
    "preset",
    "simulate_motion",
    "stratum",
    "with_severity",
]
