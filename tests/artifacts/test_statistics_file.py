"""Statistics kept on disk serve other bits and groups, and only the model they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import awqc
from awqc.errors import UsageError


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 300), nn.ReLU(), nn.Linear(300, 40))


def batches(seed: int) -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 48, generator=generator),) for _ in range(6)]


def compiled(stats: Path, calib_seed: int = 1, **options: Any) -> bytes:
    asked: dict[str, Any] = {
        "formats": ("onnx",), "stats": stats, "effort": "fast", "rounding": "gptq",
    }  # fmt: skip
    result = awqc.compile(model(), batches(0)[0], calib=batches(calib_seed), **{**asked, **options})
    return (result.folder / "model.onnx").read_bytes()


def test_other_options_need_no_new_calibration(tmp_path: Path) -> None:
    """With other data the same model comes out: the file alone was used."""
    stats = tmp_path / "s.safetensors"
    first = compiled(stats)
    assert stats.exists()
    assert compiled(stats, calib_seed=2) == first
    assert compiled(stats, calib_seed=2, bits=3, group_size=16) == compiled(
        tmp_path / "other", bits=3, group_size=16
    )
    assert compiled(tmp_path / "third", calib_seed=2) != first


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    stats = tmp_path / "s.safetensors"
    compiled(stats, rounding="nearest")
    with pytest.raises(UsageError, match="holds no grams"):
        compiled(stats)
    with pytest.raises(UsageError, match="of other weights"):
        awqc.compile(model(1), batches(0)[0], calib=batches(0), stats=stats)
    with_fewer = tmp_path / "fewer"
    compiled(with_fewer, exclude=("3",))
    with pytest.raises(UsageError, match="made with other exclude"):
        compiled(with_fewer)
    stats.write_bytes(b"junk")
    with pytest.raises(UsageError, match="cannot be read as statistics"):
        compiled(stats)


def rewritten(stats: Path, **changes: Any) -> None:
    """The file again, with tensors changed by what ``changes`` make of them."""
    with safe_open(stats, "pt") as file:
        names, about = file.keys(), file.metadata()
        tensors = {key: file.get_tensor(key) for key in names}
    for key in list(tensors):
        if (change := changes.get(key.partition(".")[2])) is not None:
            tensors[key] = change(tensors[key]).contiguous()
    save_file({key: value for key, value in tensors.items() if len(value)}, stats, metadata=about)


@pytest.mark.parametrize(("field", "change"), [
    ("abs_mean", lambda x: x[0]), ("abs_max", lambda x: x[..., 1:]), ("abs_max", lambda x: x[:0]),
    ("factor", lambda x: x[..., 1:]), ("factor", lambda x: x.double()),
    ("gram", lambda x: x[:, 1:]), ("abs_mean", lambda x: x * torch.nan),
    ("factor", lambda x: x.mT.contiguous()),
])  # fmt: skip
def test_tensors_of_another_shape_or_type_are_named(
    field: str, change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    stats = tmp_path / "s.safetensors"
    compiled(stats)
    rewritten(stats)
    compiled(stats)
    rewritten(stats, **{field: change})
    with pytest.raises(UsageError, match=rf"s.safetensors, entries\[\d\]: .*: {field} is .*needed"):
        compiled(stats)
