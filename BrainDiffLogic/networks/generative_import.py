"""Weights trained with the package monai-generative (0.2.3) in MONAI's own networks, with the same output."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError

RENAMED = {"num_channels": "channels"}
"""Arguments that have another name in MONAI 1.4 and later."""
CONDITIONED = "transformer_blocks"


def translate_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a monai-generative network by today's names, for ``build_autoencoder`` or ``build_diffusion``.

    Attention gets no output projection (``include_fc``), which 0.2.3 never applied, and separate q, k and v.
    """
    renamed = {RENAMED.get(name, name): value for name, value in arguments.items() if name != "spatial_dims"}
    return {**renamed, "include_fc": False, "use_combined_linear": False}


def read_old_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors in a file of ``torch.save(network.state_dict(), path)``; code in it is never run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give the weights of a monai-generative network") from None
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a file of weights; save network.state_dict() with torch.save") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: not a state dict; save network.state_dict() with torch.save")
    return content


def load_old_state(network: nn.Module, old: Mapping[str, Tensor]) -> None:
    """Put the weights ``old`` of monai-generative's AutoencoderKL or DiffusionModelUNet into MONAI's ``network``.

    MONAI's ``load_old_state_dict`` (1.6.1) is not used: it puts ``proj_attn`` where MONAI applies it, but 0.2.3 held
    that layer without ever applying it. Here a network with an output projection gets the identity.
    Raises InputError when the weights are of another network; ``network`` is then unchanged.
    """
    if any(CONDITIONED in name for name in old):
        raise InputError("the weights are of a conditioned network; only unconditioned ones can be imported")
    rest, new = dict(old), {}
    for name, value in network.state_dict().items():
        if ".attn.out_proj." in name:
            new[name] = torch.eye(len(value)) if name.endswith("weight") else torch.zeros(len(value))
            continue
        source = name.replace(".attn.to_", ".to_").replace(".postconv.", ".conv.")
        if source not in rest or rest[source].shape != value.shape:
            raise InputError(f"the weights do not fit the network: {source} is missing or of another shape")
        new[name] = rest.pop(source)
    if unused := {name for name in rest if ".proj_attn." not in name}:
        raise InputError(f"the weights do not fit the network: it has no place for {min(unused)}")
    network.load_state_dict(new)
