"""The smallest model of each family that timm knows, where timm is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

SMALL = ("pico", "atto", "femto", "nano", "tiny", "micro", "mini", "_xxs", "_xs", "_s", "18", "b0")
LARGEST_IMAGE = 96


def families() -> list[str]:
    """Names of the modules that models of one kind come from; empty without timm."""
    if find_spec("timm") is None:
        return []
    import timm

    return list(timm.list_modules())


def build(family: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model of ``family`` with random weights, and images that it takes."""
    import timm

    names = timm.list_models(module=family)
    name = min(names, key=lambda name: (_size(name), len(name)))
    failure: Exception | None = None
    for options in ({"img_size": LARGEST_IMAGE}, {}):
        try:
            model = timm.create_model(name, num_classes=10, **options).eval()
            image = torch.randn(2, *_image(model, fixed=not options))
            with torch.no_grad():
                model(image)
            return model, (image,)
        except Exception as error:  # noqa: BLE001 - many take no size, or no such size
            failure = error
    assert failure is not None
    raise failure


def _image(model: Any, fixed: bool) -> tuple[int, ...]:
    channels, height, width = model.default_cfg["input_size"]
    if not fixed or not model.default_cfg.get("fixed_input_size"):
        height, width = min(height, LARGEST_IMAGE), min(width, LARGEST_IMAGE)
    return channels, height, width


def _size(name: str) -> int:
    return next((rank for rank, word in enumerate(SMALL) if word in name), len(SMALL))
