"""Our writer of safetensors files against the package's own."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from awqc.artifacts.safetensors_file import _TYPES, Unwritten, write_safetensors


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=str)
def test_files_are_those_of_the_package(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    tensors = {
        f"{letter}.{index}": (torch.randn(3, 5) * 9).to(dtype)
        for index, dtype in enumerate(_TYPES)
        for letter in ("b", "ä", 'a"\\')
    }
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    lazy = {name: Unwritten.of(tensor) for name, tensor in tensors.items()}
    write_safetensors(lazy, tmp_path / "ours", metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def make() -> Tensor:
        assert all(reference() is None for reference in alive)
        made = torch.ones(8, 8)
        alive.append(weakref.ref(made))
        return made

    lazy = {str(index): Unwritten(torch.float32, (8, 8), make) for index in range(4)}
    write_safetensors(lazy, tmp_path / "file")
    assert len(alive) == 4
