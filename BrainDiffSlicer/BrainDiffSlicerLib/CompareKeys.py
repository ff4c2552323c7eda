"""Keys of the main window that work while something is shown."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer


class CompareKeys:
    """Shortcuts that are made for ``actions`` (key: function) and enabled together.

    Letters that are typed into a line or a box stay there: Qt asks the widget with the focus first.

    Usage::

      keys = CompareKeys({"B": blink})
      keys.enable(True)
    """

    def __init__(self, actions: dict[str, Callable[[], None]]) -> None:
        self._actions = actions
        self._shortcuts: list[qt.QShortcut] = []

    def enable(self, on: bool) -> None:
        """Let the keys work, or leave them to whoever else wants them."""
        if on and not self._shortcuts and slicer.util.mainWindow() is not None:
            for key, action in self._actions.items():
                shortcut = qt.QShortcut(slicer.util.mainWindow())
                shortcut.setKey(qt.QKeySequence(key))
                shortcut.activated.connect(action)
                self._shortcuts.append(shortcut)
        for shortcut in self._shortcuts:
            shortcut.setEnabled(on)

    def remove(self) -> None:
        """Give the keys back for good."""
        while self._shortcuts:
            self._shortcuts.pop().deleteLater()
