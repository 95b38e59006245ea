"""How ONNX models hold codes: data types, and what says whose they are."""

from __future__ import annotations

import onnx_ir as ir

WIDTHS = {ir.DataType[f"{sign}INT{bits}"]: bits for sign in ("", "U") for bits in (2, 4, 8)}
ROWS_OF = "awqc.rows_of"
"""Metadata of a product of several weights: their names and numbers of rows, as JSON. Of an
operation for all experts of a layer: for its operands of codes, by their places, which weights'
rows they are and the first of them, expert by expert and in turns."""
