"""Packages are asked for, installed in the right order, or explained; no test installs anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
OTHERS = ["nibabel>=5.2", "safetensors>=0.4"]
ABSENT = {"torch", "nibabel", "safetensors"}


@pytest.fixture(params=["5.12", "5.10"])
def the_installer(a_slicer, request, monkeypatch):
    """A computer without PyTorch and two of the packages, a user who agrees, and a network; in Slicer with and
    without ``slicer.packaging``."""
    import slicer

    if request.param == "5.10":
        monkeypatch.delattr(slicer, "packaging", raising=False)
    elif not hasattr(slicer, "packaging"):
        pytest.skip("this Slicer has no slicer.packaging")
    a_slicer.load_module(CHECKOUT / "BrainDiffSlicer" / "BrainDiffSlicer.py")
    a_slicer.installer.absent = set(ABSENT)
    return a_slicer.installer


@pytest.fixture
def the_dependencies(the_installer):
    from BrainDiffSlicerLib.Dependencies import Dependencies

    return Dependencies(str(CHECKOUT / "Resources" / "requirements.txt"))


def refusal(dependencies) -> str:
    from BrainDiffSlicerLib.Dependencies import DependencyError

    with pytest.raises(DependencyError) as caught:
        dependencies.ensure()
    message = str(caught.value)
    assert "\n" not in message
    return message


def asked(installer) -> list[str]:
    return [how for how, _what in installer.asked]


def test_nothing_is_asked_where_all_is_installed(the_installer, the_dependencies):
    the_installer.absent = set()
    the_dependencies.ensure()
    assert the_installer.asked == []


def test_what_is_missing_is_named_with_its_version(the_dependencies):
    assert the_dependencies.missing() == ["torch>=2.2", *OTHERS]


def test_pytorch_comes_first_and_after_asking_and_the_rest_follows(the_installer, the_dependencies):
    stages = []
    the_dependencies.ensure(stages.append)
    assert the_installer.asked == [
        ("installTorch", {"askConfirmation": False, "torchVersionRequirement": ">=2.2"}),
        ("pip_install", OTHERS),
    ]
    assert the_dependencies.missing() == []
    assert stages[0].startswith("Installing PyTorch (once, about ") and stages[0].endswith(" MB)")


def test_one_question_names_the_packages_and_the_size(a_slicer, the_dependencies, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    the_dependencies.ensure()
    (question,) = a_slicer.messages.shown
    assert "torch>=2.2, nibabel>=5.2, safetensors>=0.4" in question and "about 260 MB" in question


def test_a_card_of_nvidia_makes_the_download_larger(a_slicer, the_dependencies, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    the_dependencies.ensure()
    assert "about 3060 MB" in a_slicer.messages.shown[0]


def test_a_second_installation_during_the_first_is_refused(the_installer, the_dependencies):
    from BrainDiffSlicerLib.Dependencies import Dependencies

    refused = []
    the_installer.during = lambda: refused.append(refusal(Dependencies(the_dependencies._requirementsFile)))
    the_dependencies.ensure()
    assert len(refused) == 2 and all("already" in line for line in refused)
    assert asked(the_installer) == ["installTorch", "pip_install"]
    the_installer.absent = {"nibabel"}
    the_installer.during = lambda: None
    the_dependencies.ensure()  # the first has ended, so this one may
    assert asked(the_installer)[2:] == ["pip_install"]


def test_a_mac_gets_pytorch_2_2_with_what_goes_with_it(a_slicer, the_installer, the_dependencies, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    the_installer.absent = {"torch", "numpy"}
    assert "numpy<2" in (the_dependencies._others())
    kept = []
    monkeypatch.setattr(
        "BrainDiffSlicerLib.Packages.Packages.install",
        lambda _what, keep: kept.extend(keep) or the_installer.absent.clear(),
    )
    monkeypatch.setattr(the_dependencies, "missing", lambda: ["torch>=2.2"] if the_installer.absent else [])
    the_dependencies.ensure()
    assert "ends at 2.2.2 and needs numpy below 2" in a_slicer.messages.shown[0]
    assert "numpy" not in kept and "torch" in kept


def test_no_package_may_replace_what_slicer_and_pytorch_bring(the_installer, the_dependencies):
    the_dependencies.ensure()
    assert {"torch", "numpy", "SimpleITK"} <= the_installer.kept


def test_pytorch_that_is_there_is_not_installed_again(the_installer, the_dependencies):
    the_installer.absent -= {"torch"}
    the_dependencies.ensure()
    assert asked(the_installer) == ["pip_install"]


@pytest.mark.parametrize("installed", [set(), {"torch"}])
def test_a_user_who_declines_is_told_what_is_needed(a_slicer, the_installer, the_dependencies, installed):
    the_installer.absent -= installed
    a_slicer.messages.answers = [False]
    needed = [*([] if installed else ["torch>=2.2"]), *OTHERS]
    assert refusal(the_dependencies) == f"Nothing was installed. A correction needs {', '.join(needed)}."
    assert the_installer.asked == []


@pytest.mark.parametrize("installed", [set(), {"torch"}])
def test_an_offline_computer_is_told_to_check_the_connection(the_installer, the_dependencies, installed):
    the_installer.absent -= installed
    the_installer.outcome = "offline"
    assert "internet connection" in refusal(the_dependencies)
    assert len(the_installer.asked) == 1 and "pip" in refusal(the_dependencies)  # the reason


def test_without_the_pytorch_extension_it_says_where_to_get_it(a_slicer, the_installer, the_dependencies, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # what an import of a missing module finds
    a_slicer.messages.answers = [False]
    message = refusal(the_dependencies)
    assert "PyTorch extension" in message
    assert "Extensions Manager" in message
    assert the_installer.asked == [] and a_slicer.app.extensionsManagerModel().installed == []


@pytest.mark.parametrize("online", [True, False])
def test_the_missing_pytorch_extension_is_installed_if_the_user_agrees(
    a_slicer, the_installer, the_dependencies, monkeypatch, online
):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    manager = a_slicer.app.extensionsManagerModel()
    manager.online = online
    message = refusal(the_dependencies)
    assert manager.installed == [("PyTorch", False, False)] and manager.interactive
    assert ("restart Slicer, and press Correct motion again" in message) == online
    assert the_installer.asked == []
    assert not a_slicer.app.property("BrainDiffInstalling")


def test_in_testing_mode_nothing_is_asked_or_installed(a_slicer, the_installer, the_dependencies):
    a_slicer.app.testing = True
    assert "torch>=2.2" in refusal(the_dependencies)
    assert the_installer.asked == []


def test_a_check_asks_nothing_and_names_what_is_missing(the_installer, the_dependencies):
    from BrainDiffSlicerLib.Dependencies import DependencyError

    with pytest.raises(DependencyError, match=r"torch>=2\.2, nibabel>=5\.2"):
        the_dependencies.check()
    assert the_installer.asked == []
