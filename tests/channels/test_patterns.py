"""What the analysis finds in well-known structures, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.graph.sites import Site, scale_factor
from tests.channels.proving import by_weight, prove


class Attention(nn.Module):
    """Causal attention in which ``heads`` queries share ``shared`` keys and values."""

    def __init__(self, heads: int, shared: int, size: int, fused: bool = False) -> None:
        super().__init__()
        width = heads * size
        self.heads, self.shared, self.size, self.fused = heads, shared, size, fused
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, (heads + 2 * shared) * size)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens = x.shape[0], x.shape[1]
        parts = self.qkv(self.norm(x)).view(batch, tokens, -1, self.size).transpose(1, 2)
        q, k, v = parts.split([self.heads, self.shared, self.shared], dim=1)
        k = k.repeat_interleave(self.heads // self.shared, dim=1)
        v = v[:, :, None].expand(-1, -1, self.heads // self.shared, -1, -1).flatten(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = x + self.o(mixed.transpose(1, 2).flatten(2))
        return out


class Gated(nn.Module):
    """Gated feed-forward block behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8)
        self.gate, self.up = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        out: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return out


def rows_of(site: Site, name: str) -> list[int]:
    """The scale that each row of a weight is divided by, 0 for none."""
    labels = site.edits[name]
    assert labels.shape[1:] == (1,) * (labels.ndim - 1)
    return (-labels).flatten().tolist()


@pytest.mark.parametrize(("heads", "shared"), [(8, 8), (8, 2), (8, 1)])
def test_attention_ties_the_heads_that_share_a_value(heads: int, shared: int) -> None:
    size = 4
    sites = by_weight(prove(Attention(heads, shared, size), torch.randn(2, 5, heads * size)))
    site = sites["o.weight"]
    assert (site.status, site.channels, site.scales) == ("foldable", heads * size, shared * size)
    assert set(site.edits) == {"qkv.weight", "qkv.bias", "o.weight"}
    values = list(range(1, shared * size + 1))
    assert rows_of(site, "qkv.weight") == [0] * (heads + shared) * size + values
    repeat = heads // shared
    expected = torch.arange(shared * size).reshape(shared, 1, size).expand(-1, repeat, -1)
    assert torch.equal(site.readers[0].classes, expected.flatten())


def test_copies_of_which_only_some_are_read_by_the_site() -> None:
    class Groups(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry = nn.Linear(8, 4)
            self.parts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            copies = self.entry(x)[:, None].expand(-1, 3, -1)
            parts = [part(copies[:, index]) for index, part in enumerate(self.parts)]
            return torch.stack(parts)

    site = by_weight(prove(Groups(), torch.randn(2, 8)))["parts.0.weight"]
    assert (site.status, site.scales, len(site.readers)) == ("foldable", 4, 3)


def test_vector_as_a_weight_is_no_site() -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.entry, self.w = nn.Linear(8, 4), nn.Parameter(torch.randn(4))
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.entry(x))
            out: Tensor = self.last(y) + functional.linear(y, self.w)[:, None]
            return out

    site = by_weight(prove(Vector(), torch.randn(2, 8)))["last.weight"]
    assert site.status == "refused"
    assert "multiplies by a vector" in site.reason


def test_norm_takes_the_scale_of_all_that_reads_it() -> None:
    sites = by_weight(prove(Gated(), torch.randn(2, 5, 8)))
    site = sites["gate.weight"]
    assert site is sites["up.weight"]
    assert (site.status, site.scales) == ("foldable", 8)
    assert set(site.edits) == {"norm.weight", "gate.weight", "up.weight"}
    assert site.edits["norm.weight"].tolist() == [-k for k in range(1, 9)]


def test_gated_product_takes_the_scale_in_its_linear_side() -> None:
    site = by_weight(prove(Gated(), torch.randn(2, 5, 8)))["down.weight"]
    assert (site.status, site.scales) == ("foldable", 16)
    assert set(site.edits) == {"up.weight", "down.weight"}
    assert rows_of(site, "up.weight") == list(range(1, 17))


def test_square_takes_the_square_root() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 4, bias=False), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.down(torch.relu(self.up(x)).square())
            return out

    site = by_weight(prove(Squared(), torch.randn(2, 8)))["down.weight"]
    assert (site.status, site.scales) == ("foldable", 4)
    assert rows_of(site, "up.weight") == [5, 6, 7, 8]
    assert site.edits["down.weight"].flatten().tolist() == [1, 2, 3, 4]


def test_stream_of_convolutions_has_one_set_of_scales() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.norm(self.two(torch.relu(self.one(x)))))

    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Block(), Block(), *end)
    sites = by_weight(prove(net, torch.randn(2, 3, 8, 8)))
    stream = sites["2.one.weight"]
    assert stream is sites["3.one.weight"] is sites["6.weight"]
    assert (stream.status, stream.scales) == ("foldable", 6)
    inner = sites["3.two.weight"]
    assert (inner.status, inner.scales) == ("foldable", 6)
    assert set(inner.edits) == {"3.one.weight", "3.one.bias", "3.two.weight"}


def test_grouped_convolution_keeps_its_channels_apart() -> None:
    net = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv1d(8, 4, 1),
    )
    sites = by_weight(prove(net, torch.randn(2, 4, 9)))
    assert (sites["2.weight"].scales, sites["4.weight"].scales) == (8, 8)


def test_tied_embedding_and_head() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 8)
            self.norm = nn.LayerNorm(8)
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
            self.last = nn.RMSNorm(8)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.table(tokens)
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            return functional.linear(self.last(x), self.table.weight)

    sites = by_weight(prove(Tied(), torch.randint(0, 11, (2, 5))))
    assert sites["up.weight"].status == sites["down.weight"].status == "foldable"
    head = sites["table.weight"]
    assert head.status == "refused"
    assert "normalises it" in head.reason


def test_dynamic_axes_do_not_matter() -> None:
    sites = prove(Gated(), torch.randn(2, 5, 8), dynamic={"x": {1: "tokens"}})
    assert all(site.status == "foldable" for site in sites)


def test_rows_and_columns_of_one_weight() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(y + self.inner(y))
            return out

    sites = by_weight(prove(Adds(), torch.randn(4, 8)))
    site = sites["inner.weight"]
    assert site is sites["last.weight"]
    assert (site.status, site.scales) == ("foldable", 8)
    factor = scale_factor(site.edits["inner.weight"], torch.arange(2.0, 10.0))
    wanted = torch.arange(2.0, 10.0)[None, :] / torch.arange(2.0, 10.0)[:, None]
    assert torch.allclose(factor, wanted)


@pytest.mark.parametrize("last", [nn.GELU(), nn.ReLU()])
def test_scale_stops_in_a_depthwise_kernel_or_goes_through(last: nn.Module) -> None:
    class Branches(nn.Module):
        """The depthwise product reads what a convolution reads too."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(3, 8, 1)
            self.depth = nn.Conv1d(8, 16, 3, padding=1, groups=8)
            self.side, self.mix = nn.Conv1d(8, 16, 1), nn.Conv1d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            out: Tensor = self.mix(last(self.depth(x)) + last(self.side(x)))
            return out

    sites = by_weight(prove(Branches(), torch.randn(2, 3, 9)))
    assert (sites["side.weight"].status, sites["side.weight"].scales) == ("foldable", 8)
    assert (sites["mix.weight"].status == "foldable") == isinstance(last, nn.ReLU)


def test_one_value_through_a_depthwise_residual() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depth = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, padding=1, groups=8)
            self.mix = nn.Conv1d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            out: Tensor = self.mix(x + self.depth(x))
            return out

    site = by_weight(prove(Residual(), torch.randn(2, 3, 9)))["mix.weight"]
    assert (site.status, site.scales) == ("foldable", 8)


def test_a_tensor_that_multiplies_undoes_a_scale() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(8, 8) for _ in range(3))
            self.factor = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(torch.relu(self.second(y))) + torch.tanh(y * self.factor)
            return out

    site = by_weight(prove(Gates(), torch.randn(4, 8)))["second.weight"]
    assert (site.status, site.scales) == ("foldable", 8)
    assert "factor" in site.edits


@pytest.mark.parametrize("rows", [True, False])
def test_scattered_rows_keep_their_channels(rows: bool) -> None:
    class Scatter(nn.Module):
        """Features of an image put among embeddings of a text."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.image = nn.Embedding(11, 8), nn.Linear(6, 8)
            self.last = nn.Linear(8, 4)

        def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
            x = self.table(tokens)
            mask = (tokens == 3).unsqueeze(-1)
            mask = mask.expand_as(x) if rows else mask & (x > 0)
            x = x.masked_scatter(mask, self.image(features))
            out: Tensor = self.last(x)
            return out

    tokens = torch.tensor([[3, 1, 3, 2], [4, 3, 0, 1]])
    site = by_weight(prove(Scatter(), tokens, torch.randn(8, 6)))["last.weight"]
    assert (site.status, site.scales) == (("foldable", 8) if rows else ("refused", 0))


def test_attention_by_einsum() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part(x).unflatten(-1, (2, 4)) for part in (self.q, self.k, self.v))
            scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
            out: Tensor = self.o(torch.einsum("bhij,bjhd->bihd", scores, v).flatten(-2))
            return out

    site = by_weight(prove(Attention(), torch.randn(2, 5, 8)))["o.weight"]
    assert (site.status, site.scales) == ("foldable", 8)
    assert set(site.edits) == {"v.weight", "v.bias", "o.weight"}


class Blanked(nn.Module):
    """Sets whole rows to zero where a mask as large as its input says so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(32), nn.Linear(32, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x)
        x[mask.unsqueeze(-1).expand_as(x)] = 0
        made: Tensor = self.up(x)
        return made


def test_values_put_where_a_mask_covers_every_axis_tie_all_channels() -> None:
    mask = torch.tensor([[True, False, False], [False, False, True]])
    site = by_weight(prove(Blanked(), torch.randn(2, 3, 32), mask))["up.weight"]
    assert site.scales in (0, 1)
