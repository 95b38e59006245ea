"""Models of the zoo that are written in plain torch, in the forms that people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Built = tuple[nn.Module, tuple[Tensor, ...]]


class _Recurrent(nn.Module):
    def __init__(self, cls: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cells = cls(64, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cells(x)[0][:, -1])
        return out


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _double(3, 16), _double(16, 32)
        self.middle = _double(32, 64)
        self.up2, self.join2 = nn.ConvTranspose2d(64, 32, 2, 2), _double(64, 32)
        self.up1, self.join1 = nn.ConvTranspose2d(32, 16, 2, 2), _double(32, 16)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        deep = self.middle(functional.max_pool2d(second, 2))
        deep = self.join2(torch.cat([self.up2(deep), second], 1))
        out: Tensor = self.head(self.join1(torch.cat([self.up1(deep), first], 1)))
        return out


def _double(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class _Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(5))
        self.tokens = nn.ModuleList(_mlp(16) for _ in range(2))
        self.channels = nn.ModuleList(_mlp(64) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for i in range(2):
            mixed = self.tokens[i](self.norms[2 * i](x).transpose(1, 2))
            x = x + mixed.transpose(1, 2)
            x = x + self.channels[i](self.norms[2 * i + 1](x))
        out: Tensor = self.head(self.norms[4](x).mean(1))
        return out


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class _GraphConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.own = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for own, layer in zip(self.own, (self.first, self.second), strict=True):
            sent = torch.zeros_like(x).index_add(0, edges[1], layer(x)[edges[0]])
            x = torch.relu(sent + own(x))
        out: Tensor = self.head(x)
        return out


class _Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Transformer(64, 4, 2, 2, 128, batch_first=True, norm_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        out: Tensor = self.core(source, target)
        return out


class _Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item, self.history = nn.Embedding(500, 64), nn.EmbeddingBag(500, 64, mode="mean")
        self.cross = nn.ModuleList(nn.Linear(128, 128) for _ in range(2))
        self.tower = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Linear(64, 1)

    def forward(self, item: Tensor, history: Tensor) -> Tensor:
        x = first = torch.cat([self.item(item), self.history(history)], -1)
        for layer in self.cross:
            x = first * layer(x) + x
        out: Tensor = self.head(self.tower(x))
        return out


class _Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell = nn.Embedding(50, 64), nn.GRUCell(128, 64)
        self.query, self.key, self.score = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 1)
        self.head = nn.Linear(64, 50)

    def forward(self, seen: Tensor, words: Tensor) -> Tensor:
        state, keys, out = seen.mean(1), self.key(seen), []
        for word in self.table(words).unbind(1):
            scores = self.score(torch.tanh(self.query(state)[:, None] + keys)).softmax(1)
            state = self.cell(torch.cat([word, (scores * seen).sum(1)], -1), state)
            out.append(self.head(torch.relu(state)))
        return torch.stack(out, 1)


class _PickedExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.router = nn.RMSNorm(64), nn.Linear(64, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, 256, 64) / 8)
        self.down = nn.Parameter(torch.randn(4, 64, 128) / 12)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x)
        shares, ids = self.router(tokens).softmax(-1).topk(2, -1)
        gate, up = torch.einsum("ti,taoi->tao", tokens, self.up[ids]).chunk(2, -1)
        hidden = functional.silu(gate) * up
        return x + torch.einsum("tao,taio,ta->ti", hidden, self.down[ids], shares)


class _OwnKernels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)
        self.style = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.kernel = nn.Parameter(torch.randn(16, 16, 3, 3) / 12)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        kernels = self.kernel * self.style(style)[:, None, :, None, None]
        kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        groups = self.first(x).reshape(1, -1, 16, 16)
        made = functional.conv2d(groups, kernels.flatten(0, 1), padding=1, groups=len(x))
        out: Tensor = self.last(torch.relu(made.view(-1, 16, 16, 16)))
        return out


def _images(model: nn.Module) -> Built:
    return model, (torch.randn(2, 3, 32, 32),)


def _vector(model: nn.Module) -> Built:
    return model, (torch.randn(4, 64),)


PLAIN: dict[str, Callable[[], Built]] = {
    "mlp-relu": lambda: _vector(
        nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
    ),
    "transformer-pre-norm": lambda: (_Seq2Seq(), (torch.randn(2, 9, 64), torch.randn(2, 7, 64))),
    "encoder-post-norm": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2),
        (torch.randn(2, 9, 64),),
    ),
    "lstm": lambda: (_Recurrent(nn.LSTM), (torch.randn(2, 7, 64),)),
    "gru": lambda: (_Recurrent(nn.GRU), (torch.randn(2, 7, 64),)),
    "conv-net": lambda: _images(
        nn.Sequential(
            _double(3, 32),
            nn.MaxPool2d(2),
            _double(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    ),
    "unet": lambda: _images(_UNet()),
    "mlp-mixer": lambda: _images(_Mixer()),
    "recommender": lambda: (
        _Recommender(),
        (torch.randint(0, 500, (4,)), torch.randint(0, 500, (4, 6))),
    ),
    "captioner": lambda: (_Captioner(), (torch.randn(2, 6, 64), torch.randint(0, 50, (2, 4)))),
    "picked-experts": lambda: (_PickedExperts(), (torch.randn(12, 64),)),
    "own-kernels": lambda: (_OwnKernels(), (torch.randn(2, 3, 16, 16), torch.randn(2, 64))),
    "graph-conv": lambda: (_GraphConv(), (torch.randn(20, 64), torch.randint(0, 20, (2, 60)))),
}
