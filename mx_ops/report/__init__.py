"""The report, ``python -m mx_ops``: what every format and scale mode does to tensors, and whether all ways to run the ops agree."""
