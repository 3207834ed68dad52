"""The benchmark, ``python -m mx_ops.bench``: how near the ops come to a copy of the bytes that they move, on the user's own machine.

It times every op in the same run as a copy of the same bytes. ``--quick`` takes about a minute. ``--peers`` adds torchao and compiled
ATen. ``--json`` and ``--plot`` write files. ``--host`` says what a small call costs the host, ``--first-calls`` what a first one costs.
``--plot`` and the bar on a terminal need ``pip install 'mx_ops[bench]'``.

On one H100 80GB (torch 2.11, Triton 3.6, 2026-11-26; 8192x16384, where a copy moves 2.99 TB/s) it printed these shares of a copy. Two
figures are those along the last dim and along dim 0. NVFP4 has its tensor's scale given.

                                    MXFP4         MXFP8, MXFP6                MXINT8        NVFP4
    fake_quant, bfloat16            0.99, 0.98    0.99, 0.98                  0.99, 0.98    1.00, 0.98
      with stochastic rounding      1.00, 0.99    0.99 to 1.00, 0.99          1.00, 0.99    0.80, 0.67
    fake_quant, float32,
      either dim, either rounding   0.99 to 1.00  0.99 to 1.00                0.99 to 1.00  1.00
    quantize, bfloat16              1.01, 0.98    1.00 to 1.01, 0.95 to 0.96  1.00, 0.96    0.87, 0.79
    quantize, float32               1.01, 0.98    1.01, 0.99                  1.01, 0.99    1.01, 0.97
    dequantize to bfloat16          0.98          0.99                        0.99          0.98
    dequantize to float32           0.97          0.98                        0.98          0.97
    quantize_both, bfloat16         0.88 to 0.90  0.87 to 0.90                0.87          0.40
    quantize_both, float32          0.95 to 0.97  0.94 to 0.96                0.95          0.66
    rows of 16383, bfloat16:
      fake_quant                    0.93          0.93
      quantize                                    0.89 to 0.91
      dequantize                                  0.87 to 0.92
    torchao 0.18, bfloat16:
      quantize, compiled            0.26          1.01
      dequantize, compiled          0.22          1.00
      quantize, eager               0.01          0.05
      dequantize, eager             0.02          0.16

On one H200 (the same versions, 2026-11-28) a copy moves 4.19 TB/s: its memory is faster and its arithmetic is not. `h200.svg` beside this
file shows shares of a copy against size there, for MXFP4.
"""
