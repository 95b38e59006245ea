"""Random small networks from a grammar of operations on a stream ``(batch, tokens, width)``."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[Tensor], Tensor]
WIDTH = 8


class Parts(nn.Module):
    """A network of random parts; a seed decides what names leave open."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.parts = nn.ModuleList()

    def _build(self, name: str) -> Step:
        step: Step = getattr(self, f"_{name}")()
        return step

    def _part(self, module: nn.Module) -> nn.Module:
        """Keep ``module``, with parameters that are not those of an identity."""
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.add_(0.3 * torch.randn_like(parameter))
        self.parts.append(module)
        return module


class RandomNet(Parts):
    """Steps chosen by name; each maps ``(batch, tokens, WIDTH)`` to the same."""

    def __init__(self, names: list[str], seed: int, from_tokens: bool) -> None:
        super().__init__(seed)
        self.table = nn.Embedding(11, WIDTH) if from_tokens else None
        self.entry = nn.Linear(WIDTH, WIDTH)
        self.steps = [(name, self._build(name)) for name in names]
        self.head = nn.Linear(WIDTH, 11, bias=False)
        if self.table is not None and self.random.random() < 0.4:
            self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x) if self.table is not None else self.entry(x)
        for _, step in self.steps:
            x = step(x)
        out: Tensor = self.head(x)
        return out

    def _linear(self, n: int = WIDTH, k: int = WIDTH) -> nn.Module:
        return self._part(nn.Linear(k, n, bias=self.random.random() < 0.5))

    def _vector(self) -> nn.Parameter:
        holder = self._part(nn.LayerNorm(WIDTH, bias=False))
        assert isinstance(holder, nn.LayerNorm)
        return holder.weight

    def _dense(self) -> Step:
        return self._linear()

    def _activation(self) -> Step:
        steps: list[Step] = [
            torch.relu,
            torch.abs,
            torch.neg,
            torch.tanh,
            functional.gelu,
            lambda x: functional.leaky_relu(x, 0.1),
            lambda x: x.clamp(min=0),
            functional.relu6,
            lambda x: x * 0.5,
            lambda x: x / 3,
            lambda x: x + 1,
            self._part(nn.PReLU()),
            lambda x: torch.relu(x).square(),
            lambda x: x * x,
            lambda x: torch.where(x > 0, x, 0.0),
            lambda x: torch.softmax(x, -1),
            lambda x: functional.dropout(x, 0.5, False),
        ]
        return self.random.choice(steps)

    def _norm(self) -> Step:
        weight = self._vector()
        steps: list[Step] = [
            self._part(nn.LayerNorm(WIDTH)),
            self._part(nn.RMSNorm(WIDTH)),
            nn.LayerNorm(WIDTH, elementwise_affine=False),
            lambda x: weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
            lambda x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight),
        ]
        return self.random.choice(steps)

    def _batch_norm(self) -> Step:
        norm = self._part(nn.BatchNorm1d(WIDTH))
        return lambda x: norm(x.transpose(1, 2)).transpose(1, 2)

    def _mlp(self) -> Step:
        up, down, gate = self._linear(12), self._linear(WIDTH, 12), self._linear(12)
        act = self.random.choice([torch.relu, functional.silu, torch.abs])
        return self.random.choice(
            [
                lambda x: down(act(up(x))),
                lambda x: x + down(act(gate(x)) * up(x)),
                lambda x: down(up(x) * torch.sigmoid(gate(x))),
                lambda x: down(functional.glu(torch.cat([up(x), gate(x)], -1), -1)),
            ]
        )

    def _fused_gate(self) -> Step:
        both, down = self._linear(24), self._linear(WIDTH, 12)
        if self.random.random() < 0.5:

            def halves(x: Tensor) -> Tensor:
                gate, up = both(x).chunk(2, dim=-1)
                out: Tensor = down(functional.silu(gate) * up)
                return out

            return halves
        return lambda x: down(both(x)[..., :12] * both(x)[..., 12:].sigmoid())

    def _residual(self) -> Step:
        inner = self._build(self.random.choice(["dense", "norm", "mlp", "attention", "conv"]))
        norm = self._build("norm")
        return self.random.choice(
            [lambda x: x + inner(norm(x)), lambda x: norm(x + inner(x)), lambda x: x - inner(x)]
        )

    def _attention(self) -> Step:
        heads, shared = self.random.choice([(4, 4), (4, 2), (4, 1), (2, 1)])
        size = WIDTH // heads
        q, k = self._linear(heads * size), self._linear(shared * size)
        v, o = self._linear(shared * size), self._linear()
        kind = self.random.choice(["sdpa", "gqa", "hand", "linear"])

        def attend(x: Tensor) -> Tensor:
            batch, tokens = x.shape[0], x.shape[1]
            queries = q(x).view(batch, tokens, heads, size).transpose(1, 2)
            keys = k(x).view(batch, tokens, shared, size).transpose(1, 2)
            values = v(x).view(batch, tokens, shared, size).transpose(1, 2)
            if kind != "gqa":
                repeat = heads // shared
                keys = keys.repeat_interleave(repeat, dim=1)
                values = values[:, :, None].expand(batch, shared, repeat, tokens, size)
                values = values.reshape(batch, heads, tokens, size)
            if kind == "hand":
                mixed = torch.softmax(queries @ keys.transpose(-1, -2), -1) @ values
            elif kind == "linear":
                mixed = queries.softmax(-1) @ (keys.transpose(-1, -2).exp() @ values)
            else:
                mixed = functional.scaled_dot_product_attention(
                    queries, keys, values, is_causal=True, enable_gqa=kind == "gqa"
                )
            out: Tensor = o(mixed.transpose(1, 2).reshape(batch, tokens, -1))
            return out

        return attend

    def _conv(self) -> Step:
        groups = self.random.choice([1, 2, WIDTH])
        conv = self._part(nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=groups))
        more = self._part(nn.Conv1d(WIDTH, WIDTH, 1))
        back = self._part(nn.ConvTranspose1d(WIDTH, WIDTH, 3, padding=1, groups=min(groups, 2)))
        norm = self._part(nn.BatchNorm1d(WIDTH))
        return self.random.choice(
            [
                lambda x: more(conv(x.transpose(1, 2)).relu()).transpose(1, 2),
                lambda x: more(norm(conv(x.transpose(1, 2))).relu()).transpose(1, 2),
                lambda x: more(back(x.transpose(1, 2))).transpose(1, 2),
                lambda x: back(more(x.transpose(1, 2)).relu()).transpose(1, 2),
                lambda x: x + conv(x.transpose(1, 2)).transpose(1, 2),
            ]
        )

    def _image(self) -> Step:
        groups = self.random.choice([1, 4])
        first = self._part(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups))
        second = self._part(nn.Conv2d(WIDTH, WIDTH, 1))
        pool = self.random.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])

        def image(x: Tensor) -> Tensor:
            grid = first(x.transpose(1, 2).unflatten(2, (2, -1))).relu()
            out: Tensor = x + second(pool(grid)).mean((2, 3)).unsqueeze(1)
            return out

        return image

    def _shuffle(self) -> Step:
        order = torch.tensor(self.random.sample(range(WIDTH), WIDTH))
        self.register_buffer(f"order_{len(self.parts)}_{len(self._buffers)}", order)
        return self.random.choice(
            [
                lambda x: torch.cat([x[..., 4:], x[..., :4]], -1),
                lambda x: torch.stack(x.split(4, -1), -1).flatten(-2),
                lambda x: torch.cat(x.chunk(2, -1), -1).flip(-1),
                lambda x: x[..., :1].expand_as(x),
                lambda x: x[..., :4].repeat(1, 1, 2),
                lambda x: torch.cat([x[..., :4].repeat(1, 1, 3)[..., 2:7], x[..., 5:]], -1),
                lambda x: torch.roll(x, 1, 1),
                lambda x: functional.pad(x, (0, 0, 1, 0))[:, :-1],
                lambda x: x[:, order % 4],
                lambda x: x.reshape(x.shape[0], x.shape[1], 2, 4).transpose(2, 3).reshape(x.shape),
                lambda x: x.cumsum(1),
                lambda x: torch.zeros_like(x).index_add(1, torch.arange(x.shape[1]), x),
            ]
        )

    def _two(self) -> Step:
        one, two = self._build("dense"), self._build("dense")
        return self.random.choice(
            [
                lambda x: one(x) + two(x),
                lambda x: torch.maximum(one(x), two(x)),
                lambda x: one(x) * two(x),
                lambda x: torch.cat([one(x)[..., :3], two(x)[..., 3:]], -1),
                lambda x: one(one(x).relu()),
                lambda x: x * self._first(one),
            ]
        )

    def _first(self, module: Step) -> Tensor:
        assert isinstance(module, nn.Linear)
        return module.weight[0]


STEPS = (
    "dense",
    "activation",
    "norm",
    "batch_norm",
    "mlp",
    "fused_gate",
    "residual",
    "attention",
    "conv",
    "image",
    "shuffle",
    "two",
)
