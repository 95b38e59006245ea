"""How much work a compile spends on accuracy, in terms of the options of its passes."""

from __future__ import annotations

from typing import Any

PassOptions = dict[str, dict[str, Any]]
"""Options by pass, with underscores in its name."""

_COMPENSATED: PassOptions = {
    "insert_observers": {"gram": True},
    "quantize_weights": {"rounding": "gptq", "clip": True, "sweeps": 1},
}
ROUNDINGS: dict[str, PassOptions] = {"nearest": {}, "gptq": _COMPENSATED}
EFFORTS: dict[str, PassOptions] = {"fast": {}, "default": _COMPENSATED}


def merged(*layers: PassOptions) -> PassOptions:
    """Options of all ``layers``; later ones win.

    >>> merged({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    result: PassOptions = {}
    for layer in layers:
        for name, options in layer.items():
            result[name] = {**result.get(name, {}), **options}
    return result
