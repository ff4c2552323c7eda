"""What a correction leaves in the scene: corrected volume, difference map, quality table, disagreement map."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
from BrainDiffSlicerLib.CorrectionInput import CorrectionInput
from BrainDiffSlicerLib.DifferenceColors import DifferenceColors
from BrainDiffSlicerLib.DisagreementColors import DisagreementColors
from BrainDiffSlicerLib.OutputVolume import OutputVolume
from BrainDiffSlicerLib.QualityTable import QualityTable
from BrainDiffSlicerLib.SeriesExport import SeriesExport

INPUT_ROLE = "BrainDiff.input"
DIFFERENCE_ROLE = "BrainDiff.difference"
TABLE_ROLE = "BrainDiff.quality"
DISAGREEMENT_ROLE = "BrainDiff.disagreement"
STRENGTH = "BrainDiff.Strength"
NOTES = "BrainDiff.Notes"
DISAGREEMENT = "BrainDiff.Disagreement"
"""How the map was made, as the report says it: JSON, on the map alone."""
SMALLEST_STRENGTH = 0.1
"""Below it, the rounding of a stored difference would grow too much to be taken for the model's change."""


class CorrectionOutputs:
    """The nodes of one correction, and the strength at which they show it.

    input       the original volume node (None once it left the scene); it is never changed
    corrected, difference, table   the output nodes; difference and table are None where they left the scene
    disagreement   the node that shows how far predictions lie apart, at strength 1 whatever the strength; None where
                   that was not asked for, or the node left the scene
    change      what to add to the original at strength 1, float, KJI as ``slicer.util.arrayFromVolume`` has it;
                None where it is not known any more, and the strength cannot be set without a new run

    Usage::

      outputs = CorrectionOutputs.create(inputVolume, finding, strength=1.0)
      outputs.setStrength(0.5)
      outputs = CorrectionOutputs.find(correctedVolume)  # later, or after the scene was loaded
    """

    def __init__(
        self, input: slicer.vtkMRMLScalarVolumeNode | None, corrected: slicer.vtkMRMLScalarVolumeNode,
        difference: slicer.vtkMRMLScalarVolumeNode | None, table: slicer.vtkMRMLTableNode | None,
        disagreement: slicer.vtkMRMLScalarVolumeNode | None, change: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.input = input
        self.corrected = corrected
        self.difference = difference
        self.table = table
        self.disagreement = disagreement
        self.change = change

    @classmethod
    def create(
        cls, inputVolume: slicer.vtkMRMLScalarVolumeNode, finding: CorrectionFinding, strength: float,
        corrected: slicer.vtkMRMLScalarVolumeNode | None = None,
        difference: slicer.vtkMRMLScalarVolumeNode | None = None, table: slicer.vtkMRMLTableNode | None = None,
        disagreement: slicer.vtkMRMLScalarVolumeNode | None = None,
    ) -> CorrectionOutputs:  # fmt: skip
        """Fill the output nodes, made where they are None, in the place and on the exact grid of the input.

        finding       of the run (``CorrectionJob``)
        strength      0 (the original's voxels) to 1
        disagreement  used only where the finding has a disagreement map

        What given nodes held is replaced. A disagreement map of an earlier run that is not filled anew stays as it is,
        but belongs to the corrected volume no more. Raises ValueError, and leaves the scene as it was, if the input or
        the strength cannot be used, if the change has another shape, or if the input is also an output. Whatever else
        goes wrong leaves no node that was made here.
        """
        asked = finding.disagreement is not None
        CorrectionInput(inputVolume).check(outputs=(corrected, difference, table, disagreement if asked else None))
        arrays = cls._blended(inputVolume, finding.change, strength)
        volume = "vtkMRMLScalarVolumeNode"
        outputs = cls(
            inputVolume,
            corrected or cls._newNode(inputVolume, volume, _("{name} corrected")),
            difference or cls._newNode(inputVolume, volume, _("{name} difference")),
            table or cls._newNode(inputVolume, "vtkMRMLTableNode", _("{name} quality")),
            (disagreement or cls._newNode(inputVolume, volume, _("{name} disagreement"))) if asked else None,
            finding.change,
        )
        try:
            with outputs._oneEventEach():
                outputs._fillVolumes(*arrays, finding.disagreement)
                QualityTable.fill(outputs.table, finding.report.get("quality") or {})
                outputs._link()
                outputs._setProvenance(finding.report, strength)
            outputs._placeBesideInput()
        except Exception:
            for node in outputs._nodes():
                if node not in (corrected, difference, table, disagreement):
                    node.GetScene().RemoveNode(node)
            raise
        return outputs

    @classmethod
    def find(cls, corrected: slicer.vtkMRMLScalarVolumeNode | None) -> CorrectionOutputs | None:
        """The correction that made ``corrected``, from what the scene has kept; None if it made none.

        The change is taken from the stored difference and strength: exact to the rounding of the stored voxels
        divided by the strength. It is None where the original or the difference is gone or of another size now,
        and below strength 0.1.
        """
        if corrected is None or corrected.GetAttribute(STRENGTH) is None:
            return None
        outputs = cls(
            corrected.GetNodeReference(INPUT_ROLE),
            corrected,
            corrected.GetNodeReference(DIFFERENCE_ROLE),
            corrected.GetNodeReference(TABLE_ROLE),
            corrected.GetNodeReference(DISAGREEMENT_ROLE),
            None,
        )
        outputs.change = outputs._storedChange()
        return outputs

    @property
    def strength(self) -> float:
        """The strength, 0 to 1, that the nodes show."""
        return float(self.corrected.GetAttribute(STRENGTH))

    @property
    def notes(self) -> list[str]:
        """What the user should know of this correction, one sentence each; empty if nothing was noticed."""
        return json.loads(self.corrected.GetAttribute(NOTES) or "[]")

    def setStrength(self, strength: float) -> None:
        """Show the correction at another strength, 0 to 1, without running the model.

        Raises ValueError if the change is not known or does not fit the original any more.
        """
        if self.change is None or self.input is None:
            raise ValueError(
                _("The strength of {name} cannot be changed any more: correct the original again.").format(
                    name=self.corrected.GetName()
                )
            )
        corrected, difference = self._blended(self.input, self.change, strength)
        with self._oneEventEach():
            OutputVolume(self.corrected).setVoxels(corrected)
            if self.difference is not None:
                OutputVolume(self.difference).setVoxels(difference)
            self._noteStrength(strength)

    @staticmethod
    def _blended(
        original: slicer.vtkMRMLScalarVolumeNode, change: np.ndarray, strength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        from BrainDiffLogic.volume import blend_as_stored

        array = slicer.util.arrayFromVolume(original)
        if array.shape != change.shape:
            raise ValueError(
                _("{name} has another size than the correction found for it: correct it again.").format(
                    name=original.GetName()
                )
            )
        return blend_as_stored(array, change, strength)

    @staticmethod
    def _newNode(inputVolume: slicer.vtkMRMLNode, className: str, template: str) -> slicer.vtkMRMLNode:
        scene, name = inputVolume.GetScene(), template.format(name=inputVolume.GetName())
        return scene.AddNewNodeByClass(className, scene.GenerateUniqueName(name))

    def _nodes(self) -> list[slicer.vtkMRMLNode]:
        nodes = (self.corrected, self.difference, self.table, self.disagreement)
        return [node for node in nodes if node is not None]

    @contextmanager
    def _oneEventEach(self) -> Iterator[None]:
        with ExitStack() as stack:
            for node in self._nodes():
                stack.enter_context(slicer.util.NodeModify(node))
            yield

    def _fillVolumes(self, corrected: np.ndarray, difference: np.ndarray, disagreement: np.ndarray | None) -> None:
        original = slicer.util.arrayFromVolume(self.input)
        OutputVolume(self.corrected).fill(corrected, self.input)
        OutputVolume(self.corrected).displayLike(self.input)
        OutputVolume(self.difference).fill(difference, self.input)
        DifferenceColors.show(self.difference, original)
        if self.disagreement is not None:
            OutputVolume(self.disagreement).fill(disagreement, self.input)
            DisagreementColors.show(self.disagreement, original)

    def _link(self) -> None:
        for node in self._nodes():
            node.SetNodeReferenceID(INPUT_ROLE, self.input.GetID())
        self.corrected.SetNodeReferenceID(DIFFERENCE_ROLE, self.difference.GetID())
        self.corrected.SetNodeReferenceID(TABLE_ROLE, self.table.GetID())
        self.corrected.SetNodeReferenceID(DISAGREEMENT_ROLE, self.disagreement.GetID() if self.disagreement else None)

    def _setProvenance(self, report: dict[str, Any], strength: float) -> None:
        facts = {
            "BrainDiff.Model": report.get("model", ""),
            "BrainDiff.ModelVersion": report.get("model_version", ""),
            "BrainDiff.ModelSHA256": report.get("model_sha256", ""),
            "BrainDiff.Software": report.get("software", ""),
            "BrainDiff.Device": report.get("device", ""),
            "BrainDiff.Date": datetime.now(UTC).isoformat(timespec="seconds"),
            "BrainDiff.Input": self.input.GetName(),
            NOTES: json.dumps([*report.get("outside_domain", []), *report.get("notes", [])]),
        }
        for node in self._nodes():
            for key in [key for key in node.GetAttributeNames() if key.startswith(("DICOM.", "BrainDiff."))]:
                node.RemoveAttribute(key)  # what a given node held before may have come from a series or another run
            for key, value in facts.items():
                node.SetAttribute(key, str(value))
        if self.disagreement is not None:
            self.disagreement.SetAttribute(DISAGREEMENT, json.dumps(report.get("disagreement") or {}))
        self._noteStrength(strength)

    def _noteStrength(self, strength: float) -> None:
        for node in self._nodes():
            node.SetAttribute(STRENGTH, repr(1.0 if node is self.disagreement else float(strength)))

    def _placeBesideInput(self) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.input.GetScene())
        item = hierarchy.GetItemByDataNode(self.input)
        parent = hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()
        for node in self._nodes():
            own = hierarchy.GetItemByDataNode(node)
            if not own:  # nothing makes items where the subject hierarchy plugins are not loaded
                hierarchy.CreateItem(parent, node)
            elif hierarchy.GetItemParent(own) != parent:
                hierarchy.SetItemParent(own, parent)
        parts = {"corrected": self.corrected, "difference": self.difference, "disagreement": self.disagreement}
        for part, node in parts.items():
            if node is not None:
                SeriesExport.describe(node, self.input, part)

    def _storedChange(self) -> np.ndarray | None:
        if self.strength < SMALLEST_STRENGTH or self.input is None or self.difference is None:
            return None
        if self.input.GetImageData() is None or self.difference.GetImageData() is None:
            return None
        if self.input.GetImageData().GetDimensions() != self.difference.GetImageData().GetDimensions():
            return None
        difference = slicer.util.arrayFromVolume(self.difference)
        return difference / np.float32(self.strength)
