"""A report as JSON's types."""

from __future__ import annotations

import math
from typing import Any

from .checkpoints import CONVERTED
from .figures import COMBINATIONS, Figures, Report


def as_json(report: Report, by_tensor: bool) -> dict[str, Any]:
    """A report as JSON's types."""
    document = {
        "name": report.name,
        "tensors": len(report.tensors),
        "values": sum(tensor.shape.numel() for tensor in report.tensors),
        "not_finite": sum(tensor.not_finite for tensor in report.tensors),
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
        "converted": {tensor.name: str(tensor.dtype) for tensor in report.tensors if tensor.dtype in CONVERTED},
        "rows": rows_as_json(report.totals),
    }
    if by_tensor:
        document["by_tensor"] = [
            {
                "name": tensor.name,
                "dtype": str(tensor.dtype),
                "shape": list(tensor.shape),
                "not_finite": tensor.not_finite,
                "rows": rows_as_json(tensor.figures),
            }
            for tensor in report.tensors
        ]
    return document


def rows_as_json(figures: list[Figures]) -> list[dict[str, Any]]:
    """A table's rows; null for a number that is none."""
    return [
        {
            "format": fmt.name,
            "scale_mode": scale_mode,
            "bits_per_value": finite_or_none(sums.bits),
            "sqnr_db": finite_or_none(sums.sqnr),
            "largest_error": finite_or_none(sums.largest_error if sums.measured else math.nan),
            "clipped": finite_or_none(sums.clipped_share),
        }
        for (fmt, scale_mode), sums in zip(COMBINATIONS, figures)
    ]


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
