"""What a run returns, compared with what another one does: numbers, images, texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.errors import CaptureError
from awqc.recording.structures import constants, leaves
from awqc.verify.gaps import Gaps
from awqc.verify.words import word_error_rate

IMAGE_VALUES = 255.0


@dataclass(frozen=True)
class Results:
    """The tensors, images and texts in what a run returned, by path.

    Attributes:
        tensors: also those of arrays and of images, which have values from 0 to 1.
        images: paths of ``tensors`` that are images.
        texts: by path.
    """

    tensors: Mapping[str, Tensor]
    images: frozenset[str] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object) -> Results:
        """What is in ``value``: nests and objects of tensors, arrays, PIL images and texts."""
        images: set[str] = set()
        plain = _as_tensors(value, "", images)
        found = {path or "result": leaf for path, leaf in leaves(plain).items()}
        texts = {path or "result": x for path, x in constants(plain).items() if type(x) is str}
        return cls(found, frozenset(images), texts)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to compare."""
        return not self.tensors and not self.texts


def compare_results(now: Results, was: Results) -> dict[str, Any]:
    """How far ``now`` is from ``was``: `Gap.loss` of each tensor, `psnr_db` of images, the share of
    equal texts and their word error rate.

    Raises:
        CaptureError: one has what the other has not.
    """
    if now.tensors.keys() != was.tensors.keys() or now.texts.keys() != was.texts.keys():
        other = sorted({*now.tensors, *now.texts} ^ {*was.tensors, *was.texts})
        raise CaptureError(
            f"run returns {', '.join(other[:3])} with the original only, or with the compiled "
            "parts only; what it returns must have one form"
        )
    gaps = Gaps()
    changed = 0
    for path, value in was.tensors.items():
        if now.tensors[path].shape == value.shape:
            gaps.add(path, now.tensors[path], value)
        else:
            changed += 1  # as a text that became longer
    found: dict[str, Any] = {"outputs": gaps.loss()["outputs"], "of_another_size": changed}
    for path in was.images & gaps.outputs.keys():
        gap = gaps.outputs[path]
        noise = gap.noise / max(1, gap.compared)
        found["outputs"][path]["psnr_db"] = None if noise == 0 else -10 * math.log10(noise)
    if was.texts:
        pairs = [(now.texts[path], text) for path, text in was.texts.items()]
        found["texts"] = len(pairs)
        found["same"] = sum(one == two for one, two in pairs)
        found["word_error_rate"] = word_error_rate(pairs)
    return found


def _as_tensors(value: Any, path: str, images: set[str]) -> Any:
    """``value`` with tensors in place of arrays and images; their paths are put into ``images``."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "bifu":
        return torch.from_numpy(np.ascontiguousarray(value))
    if hasattr(value, "getbands") and hasattr(value, "tobytes"):
        images.add(path or "result")
        return torch.from_numpy(np.array(value.convert("RGB"))) / IMAGE_VALUES
    inside = f"{path}." if path else ""
    if isinstance(value, Mapping):
        return {key: _as_tensors(one, f"{inside}{key}", images) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tensors(one, f"{inside}{place}", images) for place, one in enumerate(value)]
    return value
