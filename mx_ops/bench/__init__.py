"""The benchmark, ``python -m mx_ops.bench``: how near the ops come to a copy of the bytes that they move, on the user's own machine."""
