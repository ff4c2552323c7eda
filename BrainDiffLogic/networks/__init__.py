"""Networks: `nn.Module`s that know nothing of training, files or volumes."""

from BrainDiffLogic.networks.corrector import Corrector
from BrainDiffLogic.networks.registry import CONFIGURATIONS, FAMILIES, build
from BrainDiffLogic.networks.rmman import image_pyramid

__all__ = ["CONFIGURATIONS", "FAMILIES", "Corrector", "build", "image_pyramid"]
