"""What the demonstration's network learns: handwritten digits, or made-up classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.errors import UsageError, spelled

DIGIT_FEATURES, DIGITS = 64, 10
TEST_SHARE = 0.25
SYNTHETIC_SAMPLES = 2400


@dataclass(frozen=True)
class ToyTask:
    """Samples to learn from and samples to judge by; float32 ``(samples, features)``.

    Attributes:
        description: what the data is, for people.
        synthetic: made up.
        train_x, train_y: to train and to calibrate on; ``y`` is int64 ``(samples,)``.
        test_x, test_y: held out from both.
    """

    description: str
    synthetic: bool
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_task(dims: Sequence[int], seed: int) -> ToyTask:
    """The digits where the network's ends fit them (64 in, 10 out), else made-up classes.

    Raises:
        UsageError: scikit-learn, which brings the digits, is not installed.
    """
    if (dims[0], dims[-1]) == (DIGIT_FEATURES, DIGITS):
        x, y = _digits()
        about = "handwritten digits of scikit-learn (8x8 pixels, 10 classes)"
    else:
        x, y = _made_up(dims[0], dims[-1], seed)
        about = (
            f"made-up data, {dims[0]} features and {dims[-1]} classes, seed {seed} "
            f"(the digits need {DIGIT_FEATURES} inputs and {DIGITS} outputs)"
        )
    synthetic = (dims[0], dims[-1]) != (DIGIT_FEATURES, DIGITS)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([round(len(x) * TEST_SHARE), len(x) - round(len(x) * TEST_SHARE)])
    return ToyTask(about, synthetic, x[train], y[train], x[test], y[test])


def _digits() -> tuple[Tensor, Tensor]:
    """1797 images with pixels in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "awqc demo: scikit-learn, which brings the digits, is not installed. Install it with "
            "pip install scikit-learn (it is part of the extra awqc[demo]), or give "
            f"{spelled('dims')} with other ends, as 128,256,512,256,10, which needs no data set"
        ) from None
    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def _made_up(features: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy clusters, three a class, in features of very different magnitude."""
    generator = torch.Generator().manual_seed(seed)
    clusters = 3 * classes
    centres = torch.randn(clusters, features, generator=generator)
    magnitude = torch.randn(features, generator=generator).mul(0.75).exp()
    which = torch.randint(0, clusters, (SYNTHETIC_SAMPLES,), generator=generator)
    noise = torch.randn(SYNTHETIC_SAMPLES, features, generator=generator)
    return (centres[which] + 1.5 * noise) * magnitude, which % classes
