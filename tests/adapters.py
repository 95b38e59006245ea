"""Low-rank adapters for tests, in the files that peft writes, and what a model does with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

PREFIX = "base_model.model."


def write_adapter(
    folder: Path, model: nn.Module, layers: Sequence[str], *, rank: int = 2, **changes: Any
) -> dict[str, Tensor]:
    """Random matrices for linear ``layers`` of ``model``; ``changes`` are of the configuration."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        module = model.get_submodule(layer)
        assert isinstance(module, nn.Linear), layer
        for leaf, shape in {
            "lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)
        }.items():  # fmt: skip
            made = torch.randn(shape, generator=generator) * 0.3
            tensors[f"{PREFIX}{layer}.{leaf}.weight"] = made
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def adapted(model: nn.Module, tensors: dict[str, Tensor], scale: float) -> nn.Module:
    """``model`` with the adapter running beside its layers: ``y + scale * B (A x)``."""
    layers = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}

    def beside(layer: str) -> None:
        down, up = (tensors[f"{PREFIX}{layer}.lora_{each}.weight"] for each in "AB")

        def more(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            added: Tensor = scale * (inputs[0] @ down.T @ up.T)
            return output + added

        model.get_submodule(layer).register_forward_hook(more)

    for layer in layers:
        beside(layer)
    return model.eval()
