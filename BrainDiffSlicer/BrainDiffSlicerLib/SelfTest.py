"""What the module's self-test checks, inside Slicer and outside of it."""

from __future__ import annotations

import slicer

from BrainDiffSlicerLib.CompareLayout import CompareLayout
from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs
from BrainDiffSlicerLib.SelfTestHead import SelfTestHead


class SelfTest:
    """Tests to mix into a test case whose ``logic`` is a BrainDiffSlicerLogic and whose scene is empty."""

    def test_outputs(self):
        """A known change becomes outputs on the grid of the input, at any strength, side by side."""
        head = SelfTestHead.addToScene()
        before = slicer.util.arrayFromVolume(head).copy()
        finding = CorrectionFinding(-40.0 * (before > 0).astype("f4"), {"model": "a known change"})
        outputs = CorrectionOutputs.create(head, finding, strength=1.0)
        self._checkOutputs(outputs, before)
        outputs.setStrength(0.5)
        self.assertEqual(float(slicer.util.arrayFromVolume(outputs.difference).min()), -20.0)
        self._checkOutputs(outputs, before)
        layout = CompareLayout()
        layout.show(head, outputs.corrected, outputs.difference)
        self.assertTrue(layout.shown)
        self.assertIsNotNone(layout.goToWorstSlice())
        layout.restore()
        self.assertFalse(layout.shown)

    def test_correction(self):
        """The default model corrects the head in its own process."""
        missing = self.logic.dependencies().missing()
        if missing:
            self.skipTest(f"a correction needs {', '.join(missing)}")
        head = SelfTestHead.addToScene()
        before = slicer.util.arrayFromVolume(head).copy()
        outputs = self.logic.process(head, device="cpu", force=True)  # a phantom, and a still one
        self._checkOutputs(outputs, before)
        self.assertGreater(outputs.table.GetNumberOfRows(), 0)
        self.assertGreater(float(abs(outputs.change).max()), 0.0)

    def _checkOutputs(self, outputs, before) -> None:
        original, corrected, difference = (
            slicer.util.arrayFromVolume(node) for node in (outputs.input, outputs.corrected, outputs.difference)
        )
        self.assertTrue((original == before).all(), "the original was changed")
        self.assertEqual(float(abs(corrected.astype("f8") - original - difference).max()), 0.0)
        for node in (outputs.corrected, outputs.difference):
            # an empty text: the same size, spacing, origin and directions
            self.assertEqual(slicer.vtkSlicerVolumesLogic().CompareVolumeGeometry(node, outputs.input), "")
