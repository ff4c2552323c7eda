"""Outputs as DICOM series: what Slicer's exporter is told of them, and its dialog."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _


class SeriesExport:
    """Slicer's scalar volume exporter asks the subject hierarchy item of a volume for modality, description and the
    like, and writes a CT without a description where nobody said."""

    @staticmethod
    def describe(output: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode, part: str) -> None:
        """Tell what ``output`` is, "corrected", "difference" or "disagreement", of the series of ``source``."""
        from BrainDiffLogic.images.derived_series import slicer_attributes

        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(source.GetScene())
        item, own = (hierarchy.GetItemByDataNode(node) for node in (source, output))
        names = [name for name in hierarchy.GetItemAttributeNames(item) if name.startswith("DICOM.")] if item else []
        known = {name: hierarchy.GetItemAttribute(item, name) for name in names}
        for name, value in slicer_attributes(known, part, source.GetName()).items():
            hierarchy.SetItemAttribute(own, name, value)

    @staticmethod
    def show(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
        """Open Slicer's export dialog with the volume selected; returns why it cannot be, in one line, or ""."""
        dialogClass = getattr(slicer, "qSlicerDICOMExportDialog", None)
        if dialogClass is None:
            return _("Slicer's DICOM module is not loaded: enable it and restart Slicer.")
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
        dialog = dialogClass()
        dialog.setMRMLScene(volume.GetScene())
        dialog.execDialog(hierarchy.GetItemByDataNode(volume))
        return ""
