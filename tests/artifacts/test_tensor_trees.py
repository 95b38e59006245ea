"""Trees of tensors come back from their files as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from awqc.artifacts.tensor_trees import read_tensor_tree, write_tensor_tree


def there_and_back(tree: Any, path: Path) -> Any:
    write_tensor_tree(tree, path)
    return read_tensor_tree(path)


def memory(tensor: Tensor) -> bytes:
    """Its elements, bit by bit."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        (),
        'text with \u00fcml\u00e4uts and "quotes" {tensor}',
        [1, 2.5, float("inf"), -0.1, True, None, "tensor"],
        {"tensor": ("tensor", {"dict": {}, "tuple": []}), "a": [[(1,)], {"b": None}]},
    ],
)
def test_what_holds_no_tensor(tree: Any, tmp_path: Path) -> None:
    assert there_and_back(tree, tmp_path / "file") == tree


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).bfloat16(),
        torch.randn(3, 4, dtype=torch.complex64),
        torch.tensor([[1, 2], [3, 65535]], dtype=torch.uint16),
        torch.tensor([True, False]),
        torch.tensor(7),
        torch.empty(0, 3),
        torch.empty(0, 3, dtype=torch.complex64),
        torch.randn(3, 4).T,
        torch.randn(1, 4).expand(3, 4),
        torch.tensor([float("nan"), -0.0]),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_a_tensor_of_any_kind(tensor: Tensor, tmp_path: Path) -> None:
    found, (again, number) = there_and_back([tensor, (tensor, 3)], tmp_path / "file")
    assert number == 3
    for each in (found, again):
        assert (each.dtype, each.shape) == (tensor.dtype, tensor.shape)
        assert memory(each) == memory(tensor)


def test_tensors_lie_in_memory_of_their_own(tmp_path: Path) -> None:
    """They outlast the file, and lie as any new tensor does, whatever is beside them."""
    found = there_and_back([torch.ones(3, dtype=torch.uint8), torch.ones(5)], tmp_path / "file")
    (tmp_path / "file").write_bytes(b"")
    assert torch.equal(found[1], torch.ones(5))
    assert found[1].data_ptr() % 64 == torch.ones(5).data_ptr() % 64 == 0
