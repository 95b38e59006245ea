"""Names of what a compile writes into its folder."""

from __future__ import annotations

MODEL = "model.onnx"
"""The QDQ form; in the folder `TUNED` the name of onnxruntime's own form."""
TUNED = "ort"
ARCHIVE = "model.pt2"
REPORT = "report.json"
