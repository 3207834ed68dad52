"""The rules in Triton: one kernel an op, over a tile in parts. Imports point down this list:

- `quantize_both.py`, `quantize.py`, `fake_quant.py`, `dequantize.py`, `tensor_scale.py`: an op's kernel, what finds its launch, and its
  launcher, which returns False for what the kernel does not take;
- `tile.py`: a tile in parts: loading, largest magnitudes, random bits, storing;
- `bf16x2.py`, `bf16x2_codes.py`, `fp8.py`: the rules by packed bfloat16 instructions, and by the one that rounds to FP8;
- `grid.py`: how tensors of any shape and strides become a grid of tiles;
- `cases.py`: which kernel runs when, as one table;
- `launch.py`: launches that are found once for each kind of call, and what a device can do;
- `rules.py`: the rules in float32, the twin of `reference/rules.py`.

Words: a *block* shares a scale. A *row* is what a tile has of the other dims. A *part* is a tensor that holds some elements of a tile, a
*group* eight neighbours of a block. *Packed* elements are two bfloat16s in a register. A *word* is 32 or 64 bits of codes.
"""

from .dequantize import dequantize
from .fake_quant import fake_quant
from .quantize import quantize
from .quantize_both import quantize_both
from .tensor_scale import tensor_scale

__all__ = ["dequantize", "fake_quant", "quantize", "quantize_both", "tensor_scale"]
