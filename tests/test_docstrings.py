"""Every example in a docstring runs as printed."""

from __future__ import annotations

import doctest

import torch

import mx_ops
from mx_ops import compat, config, functional, seeds
from mx_ops.library import tracing


def test_every_public_function_has_an_example_that_runs() -> None:
    """The examples of the public functions print what they say."""
    public = [getattr(mx_ops, name) for name in mx_ops.__all__]
    for module in (functional, seeds, compat, tracing, config):
        result = doctest.testmod(module, extraglobs={"mx_ops": mx_ops, "torch": torch})
        assert result.attempted
        assert not result.failed
        for function in public:
            if callable(function) and function.__module__ == module.__name__:
                assert ">>> " in function.__doc__, function
