"""Where the weights of the severity network are, and loading them; they are no corrector and not listed as one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.checkpoints import SUFFIX, Card, verify
from BrainDiffLogic.severity.network import SeverityNetwork, build_severity

FAMILY = "severity"
CALIBRATION = ("raw", "mm", "error_mm")
"""Entries of the card's calibration: values of the network, the mm they mean, the mean error there; equally long."""


@dataclass(frozen=True)
class SeverityModel:
    """A severity network, ready to look at slices, and its card."""

    network: SeverityNetwork
    card: Card

    @property
    def threshold_mm(self) -> float:
        """Below it the gate returns a scan unchanged; chosen at the calibration."""
        return float(self.card["threshold_mm"])


def shipped_weights() -> Path | None:
    """The shipped weights, beside the folder of the shipped correctors; None where they are missing."""
    path = checkpoints.shipped_folder().parent / "Severity" / f"{FAMILY}{SUFFIX}"
    return path if path.is_file() else None


def load_severity(path: str | os.PathLike[str]) -> SeverityModel:
    """The severity network of a .safetensors file and its card.

    Raises InputError for a file that is missing, of another family, or not that of its card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise InputError(f"{path}: there are no such weights; make some with `braindiff train severity --export`")
    card = verify(path)
    _check(card, path)
    network = build_severity(card["arguments"])
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        raise InputError(f"{path}: the weights do not fit the network of their card; get them again") from None
    return SeverityModel(network.eval(), card)


def _check(card: Card, path: str | os.PathLike[str]) -> None:
    if card["family"] != FAMILY:
        raise InputError(f"{path}: the weights of no severity network; give those of `braindiff train severity`")
    table = card.get("calibration")
    columns = [table.get(name) for name in CALIBRATION] if isinstance(table, dict) else []
    lengths = {len(column) if isinstance(column, list) else 0 for column in columns}
    if len(lengths) != 1 or 0 in lengths or not isinstance(card.get("threshold_mm"), int | float):
        raise InputError(f"{path}: the card has no calibration or no threshold_mm; get the weights again")
