"""Which kernels serve a type of device. Tests put others in their place here."""

from __future__ import annotations

import functools
import importlib.util
import os
from types import ModuleType


@functools.cache
def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def kernels_for(device_type: str) -> ModuleType | None:
    """The Triton kernels, if they serve this type of device."""
    if device_type not in ("cuda", "xpu", *(["cpu"] if interpreted() else [])) or importlib.util.find_spec("triton") is None:
        return None
    from .. import kernels

    return kernels
