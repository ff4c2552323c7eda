"""Packages are asked for, installed in the right order, or explained; no test installs anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
OTHERS = ["monai>=1.4", "nibabel>=5.2"]
ABSENT = {"torch", "monai", "nibabel"}


@pytest.fixture
def the_installer(a_slicer):
    """A computer without PyTorch and two of the packages, a user who agrees, and a network."""
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
    assert the_dependencies.missing() == ["torch>=2.4", *OTHERS]


def test_pytorch_comes_first_and_after_asking_and_the_rest_follows(the_installer, the_dependencies):
    the_dependencies.ensure()
    assert the_installer.asked == [
        ("installTorch", {"askConfirmation": True, "torchVersionRequirement": ">=2.4"}),
        ("pip_ensure", OTHERS),
    ]
    assert the_dependencies.missing() == []


def test_no_package_may_replace_what_slicer_and_pytorch_bring(the_dependencies, monkeypatch):
    import slicer.packaging

    options = {}
    ensure = slicer.packaging.pip_ensure
    monkeypatch.setattr(
        slicer.packaging, "pip_ensure", lambda what, **given: options.update(given) or ensure(what, **given)
    )
    the_dependencies.ensure()
    assert {"torch", "numpy", "SimpleITK"} <= set(options["skip_packages"])
    assert options["requester"] == "BrainDiff"


def test_pytorch_that_is_there_is_not_installed_again(the_installer, the_dependencies):
    the_installer.absent -= {"torch"}
    the_dependencies.ensure()
    assert asked(the_installer) == ["pip_ensure"]


def test_a_user_who_declines_pytorch_is_not_asked_on(the_installer, the_dependencies):
    the_installer.outcome = "declined"
    assert refusal(the_dependencies) == "Nothing was installed. A correction needs torch>=2.4."
    assert asked(the_installer) == ["installTorch"]


def test_a_user_who_declines_the_packages_is_told_which_are_needed(the_installer, the_dependencies):
    the_installer.absent -= {"torch"}
    the_installer.outcome = "declined"
    assert refusal(the_dependencies) == "Nothing was installed. A correction needs monai>=1.4, nibabel>=5.2."


@pytest.mark.parametrize("installed", [set(), {"torch"}])
def test_an_offline_computer_is_told_to_check_the_connection(the_installer, the_dependencies, installed):
    the_installer.absent -= installed
    the_installer.outcome = "offline"
    assert "internet connection" in refusal(the_dependencies)
    assert len(the_installer.asked) == 1


def test_without_the_pytorch_extension_it_says_where_to_get_it(the_installer, the_dependencies, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # what an import of a missing module finds
    message = refusal(the_dependencies)
    assert "PyTorch extension" in message
    assert "Extensions Manager" in message
    assert the_installer.asked == []


def test_in_testing_mode_nothing_is_asked_or_installed(a_slicer, the_installer, the_dependencies):
    a_slicer.app.testing = True
    assert "torch>=2.4" in refusal(the_dependencies)
    assert the_installer.asked == []


def test_a_check_asks_nothing_and_names_what_is_missing(the_installer, the_dependencies):
    from BrainDiffSlicerLib.Dependencies import DependencyError

    with pytest.raises(DependencyError, match=r"torch>=2\.4, monai>=1\.4"):
        the_dependencies.check()
    assert the_installer.asked == []
