"""``python -m mx_ops.kernels``: which kernel runs when, as a table in Markdown."""

from .cases import table

print(table())
