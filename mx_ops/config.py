"""Settings of the package."""

from __future__ import annotations

# What a graph that torch.compile or AOTInductor compiles holds in place of an op:
#   "aten"    its formulas in ATen, which Inductor fuses with the op's neighbours;
#   "triton"  its Triton kernel, where the device has one;
#   "auto"    whichever is faster (library.fuses says when that is).
# The bits are the same. Set it before compiling: what is compiled already stays as it is, until torch.compiler.reset().
lowering = "auto"

LOWERINGS = ("auto", "aten", "triton")


def get_lowering() -> str:
    """The setting. Raises ValueError, naming the values there are, if it is none of them."""
    if lowering not in LOWERINGS:
        raise ValueError(f"mx_ops.config.lowering is {lowering!r}; it may be {', '.join(map(repr, LOWERINGS))}")
    return lowering
