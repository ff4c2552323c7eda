"""What a training run computes on: a CPU, one or several devices, one or several machines."""

from __future__ import annotations

from dataclasses import dataclass

from BrainDiffLogic.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """Lightning's own arguments; torchrun and SLURM are Lightning's too.

    accelerator  "auto", "cpu", "gpu", "cuda" or "mps"
    devices      processes on this machine, one a device; num_nodes: machines
    strategy     "auto": one device, or DDP
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"

    @property
    def processes(self) -> int:
        """On all machines."""
        return self.devices * self.num_nodes

    @property
    def several_gpus(self) -> bool:
        """Whether the processes are on GPUs: there they can share what normalises a batch."""
        import torch

        gpus = self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())
        return self.processes > 1 and gpus


ONE_DEVICE = Hardware()
"""The default: the best device that is here."""


def check_shares(batch: int, processes: int, accumulate: int = 1) -> None:
    """Raise InputError where a batch cannot be computed in equal shares: what is learned depends on the batch alone."""
    parts = processes * accumulate
    if batch % parts:
        raise InputError(
            f"batch {batch} cannot be shared by {processes} processes in {accumulate} parts; make it a multiple of"
            f" {parts}"
        )
