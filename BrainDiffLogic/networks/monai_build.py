"""Building MONAI's networks from the plain values of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from BrainDiffLogic.errors import InputError


def build_from(network: type, fixed: Mapping[str, Any], arguments: Mapping[str, Any], name: str) -> Any:
    """``network`` from ``fixed`` and ``arguments``. Raises InputError, beginning with ``name``, where it cannot be."""
    known = set(signature(network).parameters) - set(fixed)
    if unknown := set(arguments) - known:
        raise InputError(f"{name} has no argument {min(unknown)}; it has {', '.join(sorted(known))}")
    try:
        return network(**fixed, **arguments)
    except ImportError:
        raise InputError(f"the {name} needs einops: pip install 'braindiff[train]'") from None
    except (TypeError, ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{name} cannot be built from {dict(arguments)}: {error}") from error
