"""Builds pqhost.so: PythonQt itself, as a module of the Python that runs the tests.

    python build.py PYTHONQT_SOURCES BUILD_FOLDER [QT]      then: ninja -C BUILD_FOLDER

QT is what holds include/x86_64-linux-gnu/qt5, by default /usr: Debian's qtbase5-private-dev and qttools5-dev.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

MODULES = ("core_builtin", "gui_builtin", "core", "gui", "uitools")
QT_MODULES = ("", "QtCore", "QtGui", "QtWidgets", "QtUiTools", "QtDesigner", "QtNetwork", "QtPrintSupport")
LIBRARIES = ("UiTools", "PrintSupport", "Widgets", "Gui", "Core")
HERE = Path(__file__).resolve().parent


def main(sources: Path, build: Path, qt: Path) -> None:
    """Writes BUILD_FOLDER/build.ninja."""
    headers = qt / "include" / "x86_64-linux-gnu" / "qt5"
    private = next((headers / "QtCore").glob("5.*"))
    include = [headers / name for name in QT_MODULES] + [private, private / "QtCore", sources / "src"]
    include += [sources / "src" / "gui", Path(sysconfig.get_path("include")), build]
    listed = (sources / "src" / "src.pri").read_text(encoding="utf-8")
    files = [sources / "src" / name for name in re.findall(r"\$\$PWD/(\S+\.(?:cpp|h))", listed)]
    for name in MODULES:
        files += sorted((sources / "generated_cpp_515" / f"com_trolltech_qt_{name}").glob("*.*"))
    code = [file for file in files if file.suffix == ".cpp"] + [HERE / "host.cpp"]
    moc, libraries = qt / "lib" / "qt5" / "bin" / "moc", qt / "lib" / "x86_64-linux-gnu"
    places = " ".join(f"-I{place}" for place in include)
    lines = [
        f"rule cc\n command = g++ -std=c++17 -O0 -fPIC -w -DPYTHONQT_EXPORTS -DPYTHONQT_CATCH_ALL_EXCEPTIONS {places}"
        " -c $in -o $out",
        f"rule moc\n command = {moc} {places} $in -o $out",
        f"rule ld\n command = g++ -shared $in -o $out -L{libraries} -Wl,-rpath,{libraries} "
        + " ".join(f"-lQt5{name}" for name in LIBRARIES),
        f"build host.moc: moc {HERE / 'host.cpp'}",
    ]
    for header in dict.fromkeys(file for file in files if file.suffix == ".h"):
        if "Q_OBJECT" in header.read_text(encoding="utf-8"):
            lines.append(f"build moc_{header.stem}.cpp: moc {header}")
            code.append(Path(f"moc_{header.stem}.cpp"))
    lines += [f"build {file.stem}.o: cc {file} | host.moc" for file in code]
    lines.append("build pqhost.so: ld " + " ".join(f"{file.stem}.o" for file in code))
    build.mkdir(parents=True, exist_ok=True)
    (build / "build.ninja").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(path).resolve() for path in (*sys.argv[1:3], *(sys.argv[3:] or ["/usr"]))))
