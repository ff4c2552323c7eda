"""The three corrector families: shapes, identity at birth, published sizes, cards that rebuild."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import CONFIGURATIONS, FAMILIES, Corrector, build
from BrainDiffLogic.models.rmman import ResidualBlock, image_pyramid

TINY: dict[str, dict[str, Any]] = {
    "attention-unet": {"channels": [4, 6, 8, 10]},
    "mc-net": {"filters": [4, 6, 8]},
    "rmman": {"channels": [4, 6, 8], "kernel": 3, "blocks": 1},
    "nafnet": {"width": 4, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]},
}
KINDS = [(family, kind) for family in FAMILIES for kind in ("paper", "compact")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are faster on one thread, and stay so while the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_arguments(family: str, kind: str, **changes: Any) -> dict[str, Any]:
    arguments = {**CONFIGURATIONS[family][kind], **TINY[family], **changes}
    if "strides" in arguments:
        arguments["strides"] = [2] * (len(arguments["channels"]) - 1)
    return arguments


def a_corrector(family: str, kind: str, seed: int = 0, **changes: Any) -> Corrector:
    torch.manual_seed(seed)
    return build(family, tiny_arguments(family, kind, **changes))


def slices_for(corrector: Corrector, count: int = 2, rows: int = 1, columns: int = 2) -> Tensor:
    """Random slices of `rows` x `columns` times the corrector's multiple, at least 16 x 16."""
    step = max(corrector.multiple, 16)
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, corrector.context, rows * step, columns * step, generator=generator)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("context", [1, 3, 5])
def test_residual_has_one_channel_and_the_size_of_the_slice(family: str, kind: str, context: int) -> None:
    corrector = a_corrector(family, kind, context=context, zero_init=False).eval()
    x = slices_for(corrector)
    residual = corrector(x)
    assert residual.shape == (2, 1, *x.shape[2:])
    assert residual.dtype == x.dtype
    assert residual.std() > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (3, 2)])
def test_any_multiple_fits(family: str, rows: int, columns: int) -> None:
    corrector = a_corrector(family, "compact").eval()
    step = corrector.multiple
    x = torch.ones(1, corrector.context, rows * step, columns * step)
    assert corrector(x).shape == (1, 1, rows * step, columns * step)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_size_that_does_not_fit_is_refused_with_the_multiple(family: str, kind: str) -> None:
    corrector = a_corrector(family, kind)
    with pytest.raises(InputError, match=f"multiple of {corrector.multiple}"):
        corrector(torch.zeros(1, corrector.context, corrector.multiple, corrector.multiple + 1))


def test_wrong_number_of_slices_is_refused() -> None:
    with pytest.raises(InputError, match=r"slices \(N, 3, H, W\)"):
        a_corrector("mc-net", "compact")(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("context", [0, 2, -1])
def test_even_context_is_refused(context: int) -> None:
    with pytest.raises(InputError, match="context"):
        a_corrector("mc-net", "compact", context=context)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_compact_network_is_the_identity_bit_for_bit(family: str) -> None:
    corrector = a_corrector(family, "compact").train()
    x = slices_for(corrector)
    assert torch.equal(corrector(x), torch.zeros_like(x[:, :1]))
    assert torch.equal(corrector.scale_predictions(x)[-1], x[:, 1:2])


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_init_of_a_direct_prediction_is_refused(family: str) -> None:
    with pytest.raises(InputError, match="zero_init"):
        a_corrector(family, "paper", residual=False, zero_init=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_init_network_learns_in_its_first_steps(family: str) -> None:
    corrector = a_corrector(family, "compact").train()
    x = slices_for(corrector)
    target = x[:, 1:2] * 0.95  # an artifact of usual size
    optimiser = torch.optim.Adam(corrector.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = (x[:, 1:2] - corrector(x) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("residual", [True, False])
def test_finest_prediction_is_the_slice_minus_the_residual(family: str, kind: str, residual: bool) -> None:
    corrector = a_corrector(family, kind, residual=residual, zero_init=False, context=3).eval()
    x = slices_for(corrector)
    torch.testing.assert_close(corrector.scale_predictions(x)[-1], x[:, 1:2] - corrector(x))


def test_residual_switch_turns_one_output_into_artifact_or_image() -> None:
    artifact = a_corrector("mc-net", "paper", residual=True).eval()
    image = a_corrector("mc-net", "paper", residual=False).eval()
    image.load_state_dict(artifact.state_dict())
    x = slices_for(artifact)
    torch.testing.assert_close(image(x), x - artifact(x))


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_gradient_reaches_every_parameter(family: str, kind: str) -> None:
    corrector = a_corrector(family, kind, zero_init=False).train()
    predictions = corrector.scale_predictions(slices_for(corrector, rows=2))
    sum(prediction.square().mean() for prediction in predictions).backward()
    without = [name for name, parameter in corrector.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_evaluation_is_deterministic_and_slices_do_not_see_each_other(family: str, kind: str) -> None:
    corrector = a_corrector(family, kind, zero_init=False).eval()
    x = slices_for(corrector, count=3)
    together = corrector(x)
    assert torch.equal(together, corrector(x))
    torch.testing.assert_close(together[1:2], corrector(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_card_and_weights_rebuild_the_same_network(family: str, kind: str) -> None:
    arguments = tiny_arguments(family, kind, zero_init=False)
    torch.manual_seed(1)
    corrector = build(family, arguments).eval()
    card = json.loads(json.dumps({"family": family, "arguments": arguments}))
    torch.manual_seed(2)
    rebuilt = build(card["family"], card["arguments"]).eval()
    x = slices_for(corrector)
    assert not torch.equal(rebuilt(x), corrector(x))
    rebuilt.load_state_dict(corrector.state_dict())
    assert torch.equal(rebuilt(x), corrector(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_changes_the_residual_little(family: str) -> None:
    corrector = a_corrector(family, "compact", zero_init=False).eval()
    x = slices_for(corrector)
    with torch.no_grad():
        exact = corrector(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = corrector(x)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_neighbouring_slices_reach_the_residual() -> None:
    for family in FAMILIES:
        corrector = a_corrector(family, "compact", zero_init=False).eval()
        x = slices_for(corrector)
        other = x.clone()
        other[:, 0] += 1
        assert not torch.equal(corrector(x), corrector(other)), family


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("resnet", {}, "attention-unet, mc-net, rmman"),
        ("mc-net", {"chanels": [4, 8]}, "no argument chanels; it has"),
        ("mc-net", {"in_channels": 4}, "no argument in_channels"),
        ("mc-net", {"filters": [4]}, "two levels"),
        ("mc-net", {"filters": "wide"}, "cannot be built"),
        ("mc-net", {"norm": "layer"}, "norm must be"),
        ("mc-net", {"shuffle": 0}, "shuffle must be"),
        ("attention-unet", {"design": "swin"}, "no design 'swin'"),
        ("attention-unet", {"channels": [4, 8], "strides": [2, 2]}, "one entry fewer"),
        ("attention-unet", {"design": "residual", "activation": "tanh"}, "activation must be"),
        ("attention-unet", {"design": "residual", "upsampling": "cubic"}, "upsampling must be"),
        ("attention-unet", {"design": "residual", "blocks": 0}, "one block or more"),
        ("rmman", {"kernel": 4}, "kernel must be 3, 5 or 7"),
        ("rmman", {"blocks": 6}, "blocks must be 1 to 5"),
        ("rmman", {"block": "dense"}, "block must be"),
        ("rmman", {"channels": [8, 16]}, "3 channel numbers"),
    ],
)
def test_wrong_configuration_is_refused_in_one_line(family: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        build(family, arguments)
    assert "\n" not in str(refusal.value)


def test_published_mcnet_has_8_63_million_parameters() -> None:
    corrector = build("mc-net", CONFIGURATIONS["mc-net"]["paper"])
    assert count_parameters(corrector) == pytest.approx(8.63e6, rel=1e-3)


def test_published_rmman_has_13_33_million_parameters_and_unshared_scales_three_times_as_many() -> None:
    with torch.device("meta"):
        shared = count_parameters(build("rmman", CONFIGURATIONS["rmman"]["paper"]))
        unshared = count_parameters(build("rmman", {**CONFIGURATIONS["rmman"]["paper"], "shared": False}))
    assert shared == pytest.approx(13.33e6, rel=1e-3)
    assert unshared == 3 * shared


def test_published_srn_block_gives_6_88_million_parameters() -> None:
    with torch.device("meta"):
        srn = build("rmman", {**CONFIGURATIONS["rmman"]["paper"], "block": "edsr"})
    assert count_parameters(srn) == pytest.approx(6.88e6, rel=1e-3)


def test_monai_attention_unet_has_7_94_million_parameters() -> None:
    corrector = build("attention-unet", CONFIGURATIONS["attention-unet"]["paper"])
    assert count_parameters(corrector) == pytest.approx(7.94e6, rel=1e-3)
    assert corrector.multiple == 16


def test_nafnet_of_width_32_has_17_1_million_parameters() -> None:
    corrector = build("nafnet", {**CONFIGURATIONS["nafnet"]["paper"], "residual": False})
    assert count_parameters(corrector) == pytest.approx(17.1e6, rel=5e-3)
    assert corrector.multiple == 16


def test_a_new_naf_block_is_the_identity_as_published() -> None:
    from BrainDiffLogic.models.nafnet import NafBlock

    x = torch.rand(2, 6, 5, 7)
    assert torch.equal(NafBlock(6, begin=0.0)(x), x)
    assert not torch.equal(NafBlock(6, begin=0.1)(x), x)


def test_an_attention_unet_without_gates_is_smaller_and_still_corrects() -> None:
    gated, plain = (a_corrector("attention-unet", "compact", gates=gates, zero_init=False) for gates in (True, False))
    assert count_parameters(plain) < count_parameters(gated)
    assert plain.eval()(slices_for(plain)).std() > 0


@pytest.mark.parametrize(("family", "gigaflops"), [("attention-unet", 4), ("mc-net", 4), ("rmman", 8), ("nafnet", 4)])
def test_compact_network_is_cheap_enough_for_two_cores(family: str, gigaflops: float) -> None:
    with torch.device("meta"):
        corrector = build(family, CONFIGURATIONS[family]["compact"]).eval()
        x = torch.zeros(1, corrector.context, 192, 192)
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            corrector(x)
    assert flops.get_total_flops() < gigaflops * 1e9
    assert count_parameters(corrector) < 4.5e6


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("block", ["dw", "edsr", "srresnet"])
def test_rmman_variants_have_the_parameters_their_formula_says(kernel: int, blocks: int, block: str) -> None:
    a, b, c = 4, 6, 8
    area = kernel**2
    convolutions = 6 * blocks // 3 * (4 if block == "dw" else 2)
    expected = convolutions * sum(area * width**2 + width for width in (a, b, c))
    expected += convolutions * 2 * (a + b + c) if block == "srresnet" else 0
    expected += (area * 2 * a + a) + (area * a * b + b) + (area * b * c + c)
    expected += (16 * c * b + b) + (16 * b * a + a) + (area * a + 1)
    corrector = a_corrector("rmman", "paper", kernel=kernel, blocks=blocks, block=block)
    assert count_parameters(corrector) == expected
    assert corrector.eval()(torch.rand(1, 1, 32, 16)).shape == (1, 1, 32, 16)


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_rmman_predicts_three_scales_coarse_to_fine(shuffle: int, shared: bool) -> None:
    corrector = a_corrector("rmman", "paper", shuffle=shuffle, shared=shared, context=3)
    x = slices_for(corrector, rows=1, columns=2)
    sizes = [tuple(image.shape[2:]) for image in corrector.scale_predictions(x)]
    rows, columns = x.shape[2:]
    assert sizes == [(rows // 4, columns // 4), (rows // 2, columns // 2), (rows, columns)]


def test_fresh_compact_rmman_returns_the_pyramid_of_its_own_slice() -> None:
    corrector = a_corrector("rmman", "compact")
    x = slices_for(corrector)
    for prediction, level in zip(corrector.scale_predictions(x), image_pyramid(x[:, 1:2], 3), strict=True):
        torch.testing.assert_close(prediction, level)


def test_finer_scales_of_rmman_see_the_coarse_correction_but_send_no_gradient_back() -> None:
    corrector = a_corrector("rmman", "paper", shared=False)
    coarse, _, fine = corrector.body.networks
    x = slices_for(corrector)
    before = corrector(x)
    before.square().mean().backward()
    assert all(parameter.grad is None for parameter in coarse.parameters())
    assert all(parameter.grad is not None for parameter in fine.parameters())
    nn.init.constant_(coarse.head.bias, 1.0)
    assert not torch.equal(corrector(x), before)


def test_dw_block_has_a_linear_pair_unless_an_activation_is_put_between() -> None:
    kinds = {flag: [type(layer) for layer in ResidualBlock(2, 3, "dw", flag).body] for flag in (False, True)}
    conv, relu = nn.Conv2d, nn.ReLU
    assert kinds[False] == [conv, conv, relu, conv, relu, conv]
    assert kinds[True] == [conv, relu, conv, relu, conv, relu, conv]
    assert [type(layer) for layer in ResidualBlock(2, 3, "edsr").body] == [conv, relu, conv]


def test_srresnet_block_is_the_edsr_block_with_normalisation_after_each_convolution() -> None:
    conv, norm, relu = nn.Conv2d, nn.BatchNorm2d, nn.ReLU
    assert [type(layer) for layer in ResidualBlock(2, 3, "srresnet").body] == [conv, norm, relu, conv, norm]


def test_image_pyramid_does_not_alias() -> None:
    wave = torch.cos(2 * torch.pi * torch.arange(48) / 3).expand(1, 1, 48, 48)  # too fine for half the size
    middle, fine = image_pyramid(wave, 2)
    assert torch.equal(fine, wave)
    assert middle[..., 2:-2].abs().max() < 0.2  # 0.5 without antialiasing


def test_image_pyramid_does_not_shift() -> None:
    position = torch.arange(32).float().expand(1, 1, 32, 32)
    coarse = image_pyramid(position, 3)[0]
    centres = 4 * torch.arange(8) + 1.5  # half-pixel centres of 4 x 4 cells
    torch.testing.assert_close(coarse[0, 0, 4, 2:-2], centres[2:-2])


@pytest.mark.parametrize("kind", ["paper", "compact"])
def test_attention_gates_lie_between_nothing_and_everything(kind: str) -> None:
    corrector = a_corrector("attention-unet", kind, zero_init=False).eval()
    gates: list[Tensor] = []
    for name, module in corrector.named_modules():
        if name.endswith(".psi"):
            module.register_forward_hook(lambda _module, _inputs, output: gates.append(output))
    with torch.no_grad():
        corrector(10 * slices_for(corrector))
    assert len(gates) == 3
    assert all(gate.shape[1] == 1 and gate.min() >= 0 and gate.max() <= 1 for gate in gates)
    assert max(gate.std().item() for gate in gates) > 0


@pytest.mark.parametrize(
    ("norm", "layer"), [("none", None), ("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d)]
)
def test_compact_attention_unet_has_the_normalisation_asked_for_gates_included(norm: str, layer: Any) -> None:
    corrector = a_corrector("attention-unet", "compact", norm=norm)
    kinds = {type(module) for module in corrector.modules() if "Norm" in type(module).__name__}
    assert kinds == ({layer} if layer else set())


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "silu"])
def test_compact_attention_unet_runs_with_every_activation(upsampling: str, activation: str) -> None:
    corrector = a_corrector("attention-unet", "compact", upsampling=upsampling, activation=activation, zero_init=False)
    assert corrector(slices_for(corrector)).std() > 0


def test_mcnet_normalises_over_channels_in_either_memory_layout() -> None:
    corrector = a_corrector("mc-net", "paper").train()
    x = slices_for(corrector)
    rows_first = corrector(x)
    channels_last = corrector.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(rows_first, channels_last, rtol=1e-4, atol=1e-4)
    widths = {module.num_features for module in corrector.modules() if isinstance(module, nn.BatchNorm2d)}
    assert widths == set(TINY["mc-net"]["filters"])


def test_mcnet_head_is_linear_and_may_exceed_the_input_range() -> None:
    corrector = a_corrector("mc-net", "paper").eval()
    nn.init.constant_(corrector.body.head.bias, 5.0)
    assert corrector.scale_predictions(slices_for(corrector))[0].mean() > 2
