"""A small scripted module and a small CLI module, written to a folder for the tests of the harness."""

from __future__ import annotations

from pathlib import Path

FORM = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Small</class>
<widget class="qMRMLWidget" name="Small"><layout class="QVBoxLayout" name="column">
 <item><widget class="ctkCollapsibleButton" name="group"><property name="text"><string>Inputs</string></property>
  <layout class="QFormLayout" name="rows">
   <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="inputSelector">
    <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
    <property name="noneEnabled"><bool>true</bool></property>
    <property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property></widget></item>
   <item row="1" column="1"><widget class="ctkSliderWidget" name="strengthSlider">
    <property name="decimals"><number>2</number></property><property name="singleStep"><double>0.01</double></property>
    <property name="SlicerParameterName" stdset="0"><string>strength</string></property></widget></item>
   <item row="2" column="1"><widget class="QCheckBox" name="forceCheckBox">
    <property name="SlicerParameterName" stdset="0"><string>force</string></property></widget></item>
   <item row="3" column="1"><widget class="QComboBox" name="kindComboBox">
    <property name="SlicerParameterName" stdset="0"><string>kind</string></property></widget></item>
  </layout></widget></item>
 <item><widget class="QPushButton" name="applyButton"><property name="text"><string>Apply</string></property>
 </widget></item></layout></widget>
<connections><connection><sender>Small</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>inputSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>
"""

MODULE = """
from typing import Annotated

import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *


class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Small")


@parameterNodeWrapper
class SmallParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode | None
    strength: Annotated[float, WithinRange(0, 1)] = 0.5
    force: bool = False
    kind: Annotated[str, Choice(["first", "second"])] = "first"


class SmallWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        form = slicer.util.loadUI(self.resourcePath("UI/Small.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.node = SmallLogic().getParameterNode()
        self.tag = self.node.connectGui(self.ui)
        self.clicks = 0

    def onApply(self, checked=False):
        self.clicks += 1

    def exit(self):
        self.node.disconnectGui(self.tag)


class SmallLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return SmallParameterNode(super().getParameterNode())
"""

DESCRIPTION = """<?xml version="1.0" encoding="utf-8"?>
<executable><title>Tiny</title><parameters>
 <image><name>source</name><label>Source</label><channel>input</channel><index>0</index></image>
 <image reference="source"><name>target</name><label>Target</label><channel>output</channel><index>1</index></image>
 <image><name>extra</name><channel>output</channel><longflag>--extra</longflag></image>
 <double><name>add</name><longflag>add</longflag><default>1.5</default></double>
 <string><name>mode</name><flag>m</flag></string>
 <boolean><name>loud</name><longflag>loud</longflag><default>false</default></boolean>
</parameters></executable>
"""

SCRIPT = """#!/usr/bin/env python-real
import json, sys, time
from pathlib import Path

arguments = sys.argv[1:]
print(json.dumps(arguments), flush=True)
mode = arguments[arguments.index("-m") + 1] if "-m" in arguments else ""
for share in (0.1, 0.4):
    print(f"<filter-comment>Step at {share}</filter-comment>\\n<filter-progress>{share}</filter-progress>", flush=True)
    time.sleep(0.1)
if mode == "fail":
    sys.exit("the volume is not good")
if mode == "hang":
    time.sleep(60)
import SimpleITK

image = SimpleITK.ReadImage(arguments[-2])
SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkFloat32) + float(arguments[arguments.index("--add") + 1]),
                     arguments[-1])
"""


def write_small_module(folder: Path) -> Path:
    """Small.py with its form; returns the path of the module."""
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Resources" / "UI" / "Small.ui").write_text(FORM)
    (folder / "Small.py").write_text(MODULE)
    return folder / "Small.py"


def write_small_cli(folder: Path, name: str = "Tiny") -> Path:
    """Tiny.py and Tiny.xml: adds a number to a volume; mode "fail" fails, mode "hang" never ends."""
    (folder / f"{name}.xml").write_text(DESCRIPTION)
    (folder / f"{name}.py").write_text(SCRIPT)
    return folder / f"{name}.py"


def a_waiting_module(a_slicer, folder: Path):
    """A CLI module without parameters that runs until it is stopped."""
    script = folder / "Waiting.py"
    script.write_text("#!/usr/bin/env python-real\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    description = "<executable><title>Waiting</title><parameters></parameters></executable>"
    script.with_suffix(".xml").write_text(description, encoding="utf-8")
    return a_slicer.add_cli(script)
