"""A model that generates: an encoder, and a decoder with a cache, as libraries write them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

WORDS, WIDTH = 12, 8


@dataclass
class Layer:
    keys: Tensor | None = None
    written: bool = False


@dataclass
class Cache:
    """Grows in place: what attention read of earlier tokens, and of the encoder's states."""

    own: list[Layer] = field(default_factory=list)
    other: list[Layer] = field(default_factory=list)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"states": torch.tanh(self.mix(self.table(ids))) * mask[..., None]}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.look = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor, states: Tensor, cache: Cache) -> Tensor:
        x = self.table(tokens)
        if not cache.own:
            cache.own.append(Layer())
            cache.other.append(Layer(self.look(states), written=True))
        layer, other = cache.own[0], cache.other[0]
        layer.keys = x if layer.keys is None else torch.cat([layer.keys, x], dim=1)
        assert other.keys is not None
        total = layer.keys.cumsum(dim=1)[:, -tokens.shape[1] :]
        logits: Tensor = self.head(total + other.keys.mean(dim=1, keepdim=True))
        return logits


class Toy(nn.Module):
    """``generate`` calls the encoder once, and the whole again and again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(
        self, tokens: Tensor, *, encoded: dict[str, Tensor], cache: Cache, mask: Tensor
    ) -> dict[str, object]:
        return {"logits": self.decoder(tokens, encoded["states"], cache), "cache": cache}

    def generate(self, ids: Tensor, steps: int) -> Tensor:
        mask = torch.ones_like(ids)
        encoded, cache = self.encoder(ids, mask=mask), Cache()
        tokens = made = torch.ones(len(ids), 1, dtype=torch.long)
        for _ in range(steps):
            logits = self(tokens, encoded=encoded, cache=cache, mask=mask)["logits"]
            tokens = logits[:, -1:].argmax(dim=-1)
            made = torch.cat([made, tokens], dim=1)
        return made


class Sees(nn.Module):
    """Text with images in it: rows of images take the places of one token, then all are read."""

    IMAGE = 7

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.reader = nn.Embedding(WORDS, WIDTH), Reader()
        self.eye = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.factor = factor

    def forward(self, tokens: Tensor, *, pixels: Tensor) -> Tensor:
        rows, seen = self.table(tokens), self.eye(pixels)
        logits: Tensor = self.reader(rows=self.merge(tokens, rows, seen))
        return logits

    def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        places = (tokens == self.IMAGE)[..., None]
        return rows.masked_scatter(places, seen * self.factor)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, *, rows: Tensor) -> Tensor:
        logits: Tensor = self.head(rows + rows.mean(dim=1, keepdim=True))
        return logits


PROMPT = torch.tensor([[1, 7, 7, 2], [3, 7, 7, 4]])
"""Two texts with an image of two rows in each."""
IDS = torch.arange(10).reshape(2, 5)
