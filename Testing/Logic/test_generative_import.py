"""Weights of the package monai-generative (0.2.3) in today's networks."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_stores import LDM_NETWORK, VAE_NETWORK, write_store
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import read_torch_state
from BrainDiffLogic.models.generative import (
    RENAMED,
    build_autoencoder,
    build_diffusion,
    check_partners,
    load_ldm,
    load_old_state,
    load_vae,
    translate_arguments,
)
from BrainDiffLogic.training.slice_store import SliceStore
from Harness.command_line import braindiff

VAE = {**VAE_NETWORK, "with_encoder_nonlocal_attn": True, "with_decoder_nonlocal_attn": True}
RENAMED_BACK = {new: old for old, new in RENAMED.items()}
BUILD = {"vae": (build_autoencoder, VAE), "ldm": (build_diffusion, LDM_NETWORK)}


def randomised(network: nn.Module) -> nn.Module:
    """No weight at zero, where a wrong place would not show."""
    torch.manual_seed(5)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def old_style(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network without output projection, by the names of 0.2.3, with the layer it never applied."""
    old: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        old[name.replace(".attn.to_", ".to_").replace(".postconv.", ".conv.")] = value
        if name.endswith(".attn.to_q.weight"):
            old[name.replace(".attn.to_q.", ".proj_attn.")] = torch.randn_like(value)
            old[name.replace(".attn.to_q.weight", ".proj_attn.bias")] = torch.randn(len(value))
    return old


def output(network: nn.Module) -> Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        if hasattr(network, "reconstruct"):
            return network.reconstruct(torch.rand(2, 1, 32, 48))
        return network(torch.randn(2, 3, 8, 12), torch.tensor([3, 700]))


@pytest.mark.parametrize("kind", list(BUILD))
@pytest.mark.parametrize("projected", [False, True], ids=["no projection", "identity projection"])
def test_an_old_state_gives_the_same_output_with_and_without_an_output_projection(kind: str, projected: bool) -> None:
    build, arguments = BUILD[kind]
    source = randomised(build({**arguments, "include_fc": False}))
    network = build({**arguments, "include_fc": projected}).eval()
    assert (output(network) - output(source)).abs().max() > 0.01
    load_old_state(network, old_style(source))
    torch.testing.assert_close(output(network), output(source), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", list(BUILD))
def test_the_old_state_has_names_that_are_not_todays(kind: str) -> None:
    build, arguments = BUILD[kind]
    network = build({**arguments, "include_fc": False})
    old = set(old_style(network))
    assert any("proj_attn" in name for name in old)
    assert old != set(network.state_dict())


def test_weights_of_another_network_are_refused_and_leave_the_network_alone() -> None:
    network = randomised(build_autoencoder(VAE))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match="do not fit the network"):
        load_old_state(network, old_style(build_autoencoder({**VAE, "channels": [8, 8, 8], "include_fc": False})))
    surplus = {**old_style(build_autoencoder({**VAE, "include_fc": False})), "head.weight": torch.zeros(1)}
    with pytest.raises(InputError, match="no place for head.weight"):
        load_old_state(network, surplus)
    with pytest.raises(InputError, match="conditioned"):
        load_old_state(network, {"a.transformer_blocks.0.weight": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_old_arguments_get_todays_names() -> None:
    arguments = translate_arguments({"spatial_dims": 2, "num_channels": [8, 8], "norm_num_groups": 4})
    assert arguments == {
        "channels": [8, 8], "norm_num_groups": 4, "include_fc": False, "use_combined_linear": False
    }  # fmt: skip


def test_a_file_of_weights_is_read_and_anything_else_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth")
    assert torch.equal(read_torch_state(tmp_path / "old.pth", "give another")["a"], torch.ones(2))
    with pytest.raises(InputError, match="there is no such file"):
        read_torch_state(tmp_path / "none.pth", "give another")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="not a torch file of weights; give another"):
        read_torch_state(tmp_path / "text.pth", "give another")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a state dict"):
        read_torch_state(tmp_path / "other.pth", "give another")


# As a command


@pytest.fixture
def old_files(tmp_path: Path) -> Path:
    """A slice store, and vae and ldm as monai-generative saves them with a YAML file of the network of each."""
    write_store(tmp_path / "store")
    for kind, (build, arguments) in BUILD.items():
        source = randomised(build({**arguments, "include_fc": False}))
        torch.save(old_style(source), tmp_path / f"{kind}.pth")
        torch.save(source.state_dict(), tmp_path / f"{kind}-source.pth")
        old_names = {RENAMED_BACK.get(name, name): value for name, value in arguments.items()}
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump({"network": old_names}))
    return tmp_path


def convert(folder: Path, kind: str, *options: object) -> int:
    files = folder / f"{kind}.pth", folder / f"{kind}.safetensors"
    return braindiff(
        "models", "convert", kind, *files, "--config", folder / f"{kind}.yaml", "--data", folder / "store", *options
    )


def test_old_weights_become_files_that_load_with_the_same_output(old_files: Path) -> None:
    assert convert(old_files, "vae", "--scale", 0.7) == 0
    assert convert(old_files, "ldm", "--vae", old_files / "vae.safetensors") == 0
    vae, vae_card = load_vae(old_files / "vae.safetensors")
    ldm, ldm_card = load_ldm(old_files / "ldm.safetensors")
    check_partners(vae_card, ldm_card)
    assert vae_card["scale"] == ldm_card["scale"] == 0.7
    for kind, network in (("vae", vae), ("ldm", ldm)):
        build, arguments = BUILD[kind]
        source = build({**arguments, "include_fc": False}).eval()
        source.load_state_dict(torch.load(old_files / f"{kind}-source.pth", weights_only=True))
        torch.testing.assert_close(output(network), output(source), rtol=1e-5, atol=1e-5)


def test_the_scale_of_old_weights_is_measured_where_it_is_not_given(old_files: Path) -> None:
    assert convert(old_files, "vae") == 0
    network, card = load_vae(old_files / "vae.safetensors")
    store = SliceStore(old_files / "store")
    images = torch.from_numpy(store.array[store.select(split="prior")].astype("float32"))[:, None]
    with torch.no_grad():
        assert card["scale"] == pytest.approx(1 / network.encode(images)[0].std().item(), rel=1e-3)


@pytest.mark.parametrize("kind, options, message", [
    ("ldm", (), "an ldm needs the autoencoder"), ("vae", ("--scale", -1), "--scale -1.0: must be above 0"),
])  # fmt: skip
def test_options_that_convert_nothing_are_refused(
    old_files: Path, capsys: pytest.CaptureFixture[str], kind: str, options: tuple[object, ...], message: str
) -> None:
    assert convert(old_files, kind, *options) == 2
    assert message in capsys.readouterr().err
    assert not list(old_files.glob("*.safetensors"))


def test_weights_of_another_network_are_not_converted(old_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old_files / "vae.pth").write_bytes((old_files / "ldm.pth").read_bytes())
    assert convert(old_files, "vae") == 2
    assert "do not fit the network" in capsys.readouterr().err
    assert not list(old_files.glob("*.safetensors"))


# The package itself


def legacy_network(kind: str, arguments: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nets = pytest.importorskip(
            "generative.networks.nets", reason="monai-generative is not installed: pip install 'braindiff[legacy]'"
        )
    names = {"use_flash_attention", "include_fc", "use_combined_linear"}
    old = {"num_channels" if n == "channels" else n: v for n, v in arguments.items() if n not in names}
    if kind == "vae":
        return nets.AutoencoderKL(spatial_dims=2, in_channels=1, out_channels=1, **old)
    return nets.DiffusionModelUNet(spatial_dims=2, **old)


@pytest.mark.parametrize("kind", list(BUILD))
@pytest.mark.parametrize("projected", [False, True], ids=["no projection", "identity projection"])
def test_weights_of_the_package_monai_generative_give_its_output(kind: str, projected: bool, tmp_path: Path) -> None:
    build, arguments = BUILD[kind]
    old = randomised(legacy_network(kind, arguments))
    torch.save(old.state_dict(), tmp_path / "old.pth")
    network = build({**arguments, "include_fc": projected}).eval()
    load_old_state(network, read_torch_state(tmp_path / "old.pth", "give another"))
    torch.testing.assert_close(output(network), output(old), rtol=1e-4, atol=1e-4)
