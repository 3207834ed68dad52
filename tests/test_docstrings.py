"""Every example in a docstring runs as printed."""

from __future__ import annotations

import doctest

import torch

import mx_ops
from mx_ops import functional


def test_every_public_function_has_an_example_that_runs() -> None:
    """The examples of the public functions print what they say."""
    result = doctest.testmod(functional, extraglobs={"mx_ops": mx_ops, "torch": torch})
    assert result.failed == 0
    for name in functional.__dict__:
        if name in mx_ops.__all__ and callable(getattr(mx_ops, name)) and getattr(mx_ops, name).__module__ == functional.__name__:
            assert ">>> " in getattr(mx_ops, name).__doc__, name
