"""Small pipelines: objects that hold modules and call them, as tools of the ecosystem do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WORDS, WIDTH = 64, 32


def noting(method: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that does not say what it wraps, as some libraries have."""

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return wrapper


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, return_dict: bool = True) -> Any:
        states = torch.tanh(self.mix(self.table(ids)))
        return {"states": states} if return_dict else (states,)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = (
            nn.Conv2d(4, WIDTH, 3, padding=1),
            nn.Conv2d(WIDTH, 4, 3, padding=1),
        )
        self.read = nn.Linear(WIDTH, WIDTH)

    def forward(self, sample: Tensor, step: Tensor, states: Tensor) -> tuple[Tensor]:
        told = self.read(states).mean(1)[:, :, None, None]
        return (self.outer(torch.relu(self.inner(sample) + told)) / (1 + step),)


class Coder(nn.Module):
    """Images to latents and back; its forward is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(4, WIDTH, 1), nn.Conv2d(WIDTH, 3, 3, padding=1)

    @noting
    def decode(self, z: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.after(torch.relu(self.before(z))),)


class Pipe:
    """Makes images of ids, by noise from torch's own generator."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.texts, self.denoiser, self.coder = Texts().eval(), Denoiser().eval(), Coder().eval()
        self.tokenizer = "no module"

    def __call__(self, ids: Tensor, size: int = 8, steps: int = 3) -> dict[str, Tensor]:
        (states,) = self.texts(ids, return_dict=False)
        sample = torch.randn(len(ids), 4, size, size + 4)
        for step in range(steps):
            sample = sample - self.denoiser(sample, torch.tensor(step), states=states)[0]
        return {"images": self.coder.decode(sample, return_dict=False)[0].clamp(-1, 1)}


def draw(pipe: Pipe) -> list[dict[str, Tensor]]:
    """Images of several sizes, of several texts."""
    ids = torch.arange(36).reshape(3, 12)
    return [
        *(pipe(ids[:2, :5] + place) for place in range(4)),
        pipe(ids[:, :7], 12),
        pipe(ids[:, 2:], 10, 2),
    ]
