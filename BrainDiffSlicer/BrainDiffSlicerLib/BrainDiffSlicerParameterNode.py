"""What the panel keeps in the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLTableNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class BrainDiffSlicerParameterNode:
    """
    The parameters needed by module.

    inputVolume - The T1-weighted volume with head motion. It is never changed.
    correctedVolume - Gets the corrected image; a new volume is made if there is none.
    differenceVolume - Gets corrected minus input; a new volume is made if there is none.
    qualityTable - Gets the image quality before and after; a new table is made if there is none.
    model - Name of the model, or "file" for the model file in the settings of this computer.
    strength - Share of the change that is applied, 0 to 1.
    force - If true, a volume without visible motion or far outside what the model was trained on is corrected, too.
    disagreement - If true, a volume is made that shows how far predictions lie apart.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    correctedVolume: vtkMRMLScalarVolumeNode
    differenceVolume: vtkMRMLScalarVolumeNode
    qualityTable: vtkMRMLTableNode
    model: str = "motion"
    strength: Annotated[float, WithinRange(0, 1)] = 1.0
    force: bool = False
    disagreement: bool = False
