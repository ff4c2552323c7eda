"""Modules ``qt`` and ``ctk``: PySide6 with PythonQt's face, or PythonQt itself (BRAINDIFF_PYTHONQT)."""

from __future__ import annotations

import os

if os.environ.get("BRAINDIFF_PYTHONQT"):
    from Harness.genuine import QtCore, QtGui, application, ctk, offer, press_key, qt, settings_in
else:
    from Harness.pyside import QtCore, QtGui, application, ctk, offer, press_key, qt, settings_in

__all__ = ["QtCore", "QtGui", "application", "ctk", "offer", "press_key", "qt", "settings_in"]
