"""mx_ops: OCP Microscaling (MX) and NVFP4 quantization as PyTorch ops.

Importing it registers the ops of ``torch.ops.mx``; the functions here are the same ops with torch's own dtypes.
"""

import sys
import warnings

if sys.argv[:1] == ["-m"]:  # the commands need no numpy, of which torch warns as it is imported
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)

from . import config
from . import library as _library  # noqa: F401  registers the ops
from .formats import BLOCK_SIZES, FORMATS, SCALE_MODES, Format
from .functional import (
    dequantize,
    fake_quant,
    mxfp4_fake_quant,
    mxfp8_fake_quant,
    nvfp4_fake_quant,
    quantize,
    quantize_both,
    swizzle_scales,
    tensor_scale,
    unswizzle_scales,
)
from .library import decompositions
from .seeds import fold_seed

__version__ = "0.1.0"

__all__ = [
    "BLOCK_SIZES",
    "FORMATS",
    "SCALE_MODES",
    "Format",
    "config",
    "decompositions",
    "dequantize",
    "fake_quant",
    "fold_seed",
    "mxfp4_fake_quant",
    "mxfp8_fake_quant",
    "nvfp4_fake_quant",
    "quantize",
    "quantize_both",
    "swizzle_scales",
    "tensor_scale",
    "unswizzle_scales",
]

# Last, for they are names for what is above: those of the kernels that this package succeeds.
from .compat import fake_quant_mxfp4, fake_quant_mxfp8, mxfp4_forward, mxfp8_forward, nvfp4_forward

__all__ += ["fake_quant_mxfp4", "fake_quant_mxfp8", "mxfp4_forward", "mxfp8_forward", "nvfp4_forward"]
