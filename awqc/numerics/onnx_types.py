"""ONNX data types that hold codes."""

from __future__ import annotations

import onnx_ir as ir

WIDTHS = {ir.DataType[f"{sign}INT{bits}"]: bits for sign in ("", "U") for bits in (2, 4, 8)}
