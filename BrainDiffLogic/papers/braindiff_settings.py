"""What a reproduction of BrainDiff is made with: the sizes compact and paper, or any other settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from BrainDiffLogic.digests import SHORT, digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.injection.inject import PAPER, Plan
from BrainDiffLogic.papers.cohort import Uses
from BrainDiffLogic.papers.run import RecipeSettings, check_size
from BrainDiffLogic.training.configuration import CorrectorConfiguration, LdmConfiguration, VaeConfiguration
from BrainDiffLogic.training.fields import read_section

PHYSICS_LEVELS = ("nod", "drift", "steps", "swallow", "tremor")
"""Presets of the physics pairs: as many as injection makes variants, so that both correctors see as many pairs."""
PHYSICS_SEVERITY_MM = (0.5, 5.0)
"""Mean displacement, drawn log-uniformly. Chosen without looking at the test's motion."""

USES = Uses(("clean", "motion"), ("correction",), {
    "prior": "vae: both groups; ldm: motion; ldm-clean: clean",
    "correction": "vae: both groups; injected, physics, correctors: clean",
    "test": "table only: clean, and the pairs with motion",
})  # fmt: skip


@dataclass(frozen=True)
class BrainDiffSettings(RecipeSettings):
    """Settings of ``braindiff reproduce braindiff``.

    canvas, spacing_mm, step  of the slices, see ``slice_store.build_store``
    vae, ldm, corrector       of phases 1, 2 (motion; the control differs in its group alone) and 4
    injection                 of phase 3
    pe_axis                   phase encoding of the physics pairs
    """

    canvas: tuple[int, int]
    spacing_mm: float | None
    vae: VaeConfiguration
    ldm: LdmConfiguration
    corrector: CorrectorConfiguration
    injection: Plan = field(default_factory=Plan)
    step: int = 1
    physics_levels: tuple[str, ...] = PHYSICS_LEVELS
    physics_severity_mm: tuple[float, float] = PHYSICS_SEVERITY_MM
    pe_axis: str = "AP"
    uses: ClassVar[Uses] = USES

    @property
    def digest(self) -> str:
        """A short name for exactly these settings."""
        return digest(self.as_dict())[:SHORT]


def braindiff_settings(
    size: str, *, perceptual: str | None = None, vgg: Path | None = None, paper_injection: bool = False, seed: int = 0
) -> BrainDiffSettings:
    """The settings of a size.

    compact  2 mm pixels on 96 x 128, every third slice: little more than an hour on two cores
    paper    1 mm on 192 x 256, the published networks and losses: for a GPU
    perceptual, vgg  of phase 1 instead of the configuration's; the paper's LPIPS needs the file of VGG weights
    paper_injection  phase 3 to the letter (``inject.PAPER``) instead of the default, which keeps the anatomy
    Raises InputError for another size, and where LPIPS has no file of weights.
    """
    check_size(size)
    suffix = "-paper" if size == "paper" else ""
    options = {"vgg": str(vgg)} if vgg else None
    vae = read_section(VaeConfiguration, f"vae{suffix}", perceptual=perceptual, perceptual_options=options)
    if vae.perceptual == "lpips" and not vae.perceptual_options.get("vgg"):
        raise InputError("the paper's perceptual term needs --vgg, torchvision's weights; or --perceptual gradient")
    return BrainDiffSettings(
        canvas=(192, 256) if suffix else (96, 128), spacing_mm=1.0 if suffix else 2.0, step=1 if suffix else 3,
        vae=vae, ldm=read_section(LdmConfiguration, f"ldm{suffix}"),
        corrector=read_section(CorrectorConfiguration, f"braindiff{suffix}"),
        injection=replace(PAPER if paper_injection else Plan(), seed=seed),
    )  # fmt: skip


def without_contrast(corrector: CorrectorConfiguration) -> CorrectorConfiguration:
    """The ablation: the same configuration, the weight of info_nce 0."""
    stages = [
        replace(stage, loss={term: 0.0 if term == "info_nce" else weight for term, weight in stage.loss.items()})
        for stage in corrector.stages
    ]
    return replace(corrector, stages=stages)
