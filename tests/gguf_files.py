"""GGUF files of tiny decoders, as the converter of llama.cpp lays their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from torch import Tensor

from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.ggml_blocks import to_blocks
from awqc.numerics.quantizing import quantize as quantize_weight

PAIRED = ("llama",)
"""Architectures whose queries and keys have the two halves of a rotary pair side by side."""
SHIFTED = ("gemma3", "gemma2")
"""Those whose norms are stored as ``1 + w``."""


TURNED = ("gpt2",)
"""Those whose linears the model holds as (in, out)."""


def paired(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head: of the first half and of the second in turn."""
    turned = weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2)
    return turned.reshape(weight.shape)


def gguf_tensors(model: Any, architecture: str) -> dict[str, tuple[str, Tensor]]:
    """For each tensor of the file the parameter, and its values as the file has them."""
    config = model.config
    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        if architecture in PAIRED and ".attn_q." in target:
            value = paired(value, config.num_attention_heads)
        elif architecture in PAIRED and ".attn_k." in target:
            value = paired(value, config.num_key_value_heads)
        elif architecture in SHIFTED and "norm" in target:
            value = value + 1
        elif architecture in TURNED and any(part in name for part in ("c_attn", "c_proj", "c_fc")):
            value = value.t() if value.ndim == 2 else value
        found[target] = (name, value.detach())
    return found


def write_template(
    model: Any,
    architecture: str,
    path: Path,
    kind: str = "F16",
    types: Mapping[str, str | WeightFormat] | None = None,
    shown: str = "",
) -> dict[str, tuple[str, Tensor]]:
    """Write ``model`` as a GGUF file.

    Args:
        model: a causal language model of transformers.
        architecture: as llama.cpp calls it.
        path: of the file.
        kind: type of matrices; ``F32``, ``F16`` or ``BF16``.
        types: of single tensors by name, instead.
        shown: what the file says of its architecture, where that is not the truth.
    """
    config, tensors = model.config, gguf_tensors(model, architecture)
    writer = gguf.GGUFWriter(path, shown or architecture)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", config.hidden_size * 4))
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", 1e-5))
    writer.add_vocab_size(config.vocab_size)
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    for name, (_, value) in tensors.items():
        wanted = (types or {}).get(name, "F32" if value.ndim == 1 else kind)
        if isinstance(wanted, WeightFormat):
            stored = quantize_weight(value.float(), len(value), wanted, torch.float16)
            blocks = to_blocks(stored).numpy()
            raw = gguf.GGMLQuantizationType[wanted.name or "Q8_0"]
            writer.add_tensor(name, blocks, raw_dtype=raw)
        else:
            raw = gguf.GGMLQuantizationType[wanted]
            array = value.float().numpy()
            writer.add_tensor(name, np.ascontiguousarray(quantize(array, raw)), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
