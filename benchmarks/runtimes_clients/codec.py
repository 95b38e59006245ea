"""Arrays in JSON, for the clients that are Python; needs NumPy only."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def encode(array: Any) -> dict[str, Any]:
    """An array as dtype, shape and base64."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


def decode(value: dict[str, Any]) -> Any:
    """Undo `encode`."""
    data = base64.b64decode(value["data"])
    array = np.frombuffer(data, dtype=value["dtype"]) if data else np.zeros(0, value["dtype"])
    return array.reshape(value["shape"]).copy()
