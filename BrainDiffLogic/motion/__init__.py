"""The physics of head motion in MRI: poses, trajectories and the k-space forward model."""

from BrainDiffLogic.motion.coils import smooth_coils
from BrainDiffLogic.motion.inversion import Inversion, invert_motion
from BrainDiffLogic.motion.presets import PRESETS, preset
from BrainDiffLogic.motion.simulation import Simulation, simulate_motion, smooth_phase
from BrainDiffLogic.motion.traces import TraceSet
from BrainDiffLogic.motion.trajectory import STRATUM_NAMES, Trajectory, stratum, with_severity

__all__ = [
    "PRESETS", "STRATUM_NAMES", "Inversion", "Simulation", "TraceSet", "Trajectory", "invert_motion", "preset",
    "simulate_motion", "smooth_coils", "smooth_phase", "stratum", "with_severity",
]  # fmt: skip
