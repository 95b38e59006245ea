"""Random small networks on images ``(batch, channels, height, width)``, all but channels free."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.channels.random_nets import Parts, Step

CHANNELS = 8


class RandomImageNet(Parts):
    """Steps chosen by name; each maps ``(batch, CHANNELS, height, width)`` to four axes again."""

    def __init__(self, names: list[str], seed: int) -> None:
        super().__init__(seed)
        self.entry = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.steps = [self._build(name) for name in names]
        self.head = nn.Conv2d(CHANNELS, 5, 1)
        self.pooled = self.random.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for step in self.steps:
            x = step(x)
        out: Tensor = self.head(x)
        return out.mean((2, 3)) if self.pooled else out

    def _conv(self) -> Step:
        groups = self.random.choice([1, 2, CHANNELS])
        size = self.random.choice([1, 3])
        padding = self.random.choice([0, size // 2])
        stride = self.random.choice([1, 1, 2])
        modes: Any = ("zeros", "reflect", "replicate", "circular")
        mode: Any = self.random.choice(modes) if padding else "zeros"
        return self._part(
            nn.Conv2d(CHANNELS, CHANNELS, size, stride, padding, groups=groups, padding_mode=mode)
        )

    def _transposed(self) -> Step:
        groups = self.random.choice([1, 2])
        return self._part(nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2, groups=groups))

    def _norm(self) -> Step:
        scale = self._part(nn.LayerNorm(CHANNELS))
        steps: list[Step] = [
            self._part(nn.BatchNorm2d(CHANNELS)),
            self._part(nn.GroupNorm(2, CHANNELS)),
            self._part(nn.InstanceNorm2d(CHANNELS, affine=True)),
            lambda x: scale(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        ]
        return self.random.choice(steps)

    def _activation(self) -> Step:
        steps: list[Step] = [
            torch.relu, functional.silu, functional.hardswish, functional.hardsigmoid,
            functional.gelu, functional.mish, functional.elu, functional.softplus,
            functional.relu6, torch.sigmoid, torch.sin, self._part(nn.PReLU(CHANNELS)),
            lambda x: functional.threshold(x, 0.1, 0.0), lambda x: x.abs().sqrt(),
        ]  # fmt: skip
        return self.random.choice(steps)

    def _pool(self) -> Step:
        steps: list[Step] = [
            nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d(2),
            nn.AdaptiveAvgPool2d((None, 1)), nn.LPPool2d(2, 2),
            lambda x: functional.avg_pool2d(x, (x.shape[-2] // 2, 1)),
            lambda x: x.amax((2, 3), keepdim=True), lambda x: x.mean(3, keepdim=True),
        ]  # fmt: skip
        return self.random.choice(steps)

    def _resize(self) -> Step:
        steps: list[Step] = [
            lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
            lambda x: functional.interpolate(
                x, scale_factor=2.0, mode="bilinear", align_corners=False
            ),
            lambda x: functional.interpolate(x, size=(5, 7), mode="bilinear", align_corners=True),
            lambda x: functional.interpolate(x[..., ::2, ::2], size=x.shape[-2:]),
            lambda x: functional.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
            lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
            lambda x: functional.pad(x, (0, 1, 2, 0)),
        ]
        return self.random.choice(steps)

    def _place(self) -> Step:
        steps: list[Step] = [
            lambda x: x.flip(3), lambda x: x.transpose(2, 3), lambda x: x[:, :, 1:],
            lambda x: torch.roll(x, (1, 2), (2, 3)),
            lambda x: torch.roll(x, x.shape[2] // 2, 2),
            lambda x: torch.cat([x, x.flip(2)], 2), lambda x: x[:, torch.arange(7, -1, -1)],
            lambda x: x + torch.arange(x.shape[3], dtype=x.dtype) / x.shape[3],
            lambda x: x * torch.linspace(-1, 1, x.shape[2])[:, None],
            lambda x: x.flatten(2).cumsum(2).unflatten(2, (x.shape[2], x.shape[3])),
            lambda x: torch.where(x > x.mean(), x, x * 0.1), lambda x: x.tril(),
        ]  # fmt: skip
        return self.random.choice(steps)

    def _mix(self) -> Step:
        one, two = self._conv_same(), self._conv_same()
        dense = self._part(nn.Linear(CHANNELS, CHANNELS))
        steps: list[Step] = [
            lambda x: x + one(x).relu(), lambda x: one(x) * two(x).sigmoid(),
            lambda x: torch.cat([one(x)[:, :3], two(x)[:, 3:]], 1),
            lambda x: one(x) * x.mean((2, 3), keepdim=True).sigmoid(),
            lambda x: dense(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape),
            lambda x: dense(x.mean((2, 3)))[:, :, None, None] + x,
            lambda x: (x.flatten(2).softmax(-1) @ x.flatten(2).transpose(1, 2) @ x.flatten(2))
            .reshape(x.shape),
        ]  # fmt: skip
        return self.random.choice(steps)

    def _conv_same(self) -> nn.Module:
        return self._part(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))


STEPS = ("conv", "transposed", "norm", "activation", "pool", "resize", "place", "mix")
