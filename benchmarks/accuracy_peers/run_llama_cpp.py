"""llama.cpp: its own quantizer, with an importance matrix of the same tokens.

A method is a type (``Q4_K``: all weights in it) or a mix (``Q4_K_M``), where llama.cpp chooses the
type of each weight. Types with blocks of 256 need rows that 256 divides; where a model has others,
llama.cpp takes another type. Here rows are joined until 256 divides them, each with its own
importance, so that the types are what their names say.
"""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from common import Answer, NotOfferedError, Request, linears, run
from torch import Tensor, nn
from transformers import PretrainedConfig

BLOCK = 256
Importance = dict[str, Tensor]
"""Mean square of each input channel, by module path."""


def quantize(request: Request, model: nn.Module) -> Answer:
    importance = importance_of(request, model)
    layers = linears(model)
    types = types_of(request.method, layers, model.config)
    weights, stored = {}, {}
    for name, layer in layers.items():
        made, stored[name] = through(types[name], layer.weight.detach(), importance[name])
        weights[f"{name}.weight"] = made
    used = sorted({kind.name for kind in types.values()})
    notes = (f"{', '.join(used)}; importance matrix",)
    return Answer(weights, 0, len(request.ids), notes=notes, stored_bits=stored)


@torch.no_grad()
def importance_of(request: Request, model: nn.Module) -> Importance:
    """As llama-imatrix counts it."""
    found: Importance = {}

    def watch(name: str, module: nn.Module) -> None:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].flatten(0, -2).double().square().sum(0)
            found[name] = found.get(name, torch.zeros(())) + squares

        hooks.append(module.register_forward_pre_hook(add))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in linears(model).items():
        watch(name, module)
    for batch in request.batches():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return {name: (sums / int(request.mask.sum())).float() for name, sums in found.items()}


def types_of(
    method: str, layers: Mapping[str, nn.Linear], config: PretrainedConfig
) -> dict[str, gguf.GGMLQuantizationType]:
    """The type of each layer."""
    kind = getattr(gguf.GGMLQuantizationType, method, None)
    if kind is not None:
        return dict.fromkeys(layers, kind)
    mix = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{method}", None)
    if mix is None:
        raise NotOfferedError(f"llama.cpp has no {method}")
    depth = 1 + max(int(part) for name in layers for part in name.split(".") if part.isdigit())
    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, depth)
    names = {name: f"{places.get_name(name)}.weight" for name in layers}
    heads = config.num_attention_heads, config.num_key_value_heads
    chosen = chosen_types(mix, depth, heads, names.values())
    return {name: chosen[place] for name, place in names.items()}


def chosen_types(
    mix: int, depth: int, heads: tuple[int, int], names: Iterable[str]
) -> dict[str, gguf.GGMLQuantizationType]:
    """What llama.cpp makes of a model of such tensors, each of which 256 divides."""
    wanted = [*names, "token_embd.weight", "output.weight"]
    with tempfile.TemporaryDirectory() as folder:
        outline, made = Path(folder) / "outline.gguf", Path(folder) / "made.gguf"
        writer = gguf.GGUFWriter(outline, "llama")
        writer.add_block_count(depth)
        writer.add_embedding_length(BLOCK)
        writer.add_feed_forward_length(BLOCK)
        writer.add_context_length(BLOCK)
        writer.add_head_count(heads[0])
        writer.add_head_count_kv(heads[1])
        writer.add_layer_norm_rms_eps(1e-5)
        for name in wanted:
            writer.add_tensor(name, np.ones((BLOCK, BLOCK), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.nthread = mix, 1
        importance = np.ones(BLOCK, np.float32)
        pointer = importance.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entries = [
            llama_cpp.llama_model_imatrix_data(name.encode(), pointer, BLOCK) for name in wanted
        ]
        entries.append(llama_cpp.llama_model_imatrix_data(None, None, 0))
        options.imatrix = (llama_cpp.llama_model_imatrix_data * len(entries))(*entries)
        failed = llama_cpp.llama_model_quantize(
            str(outline).encode(), str(made).encode(), ctypes.byref(options)
        )
        if failed:
            raise RuntimeError(f"llama_model_quantize ended with {failed}")
        return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(made).tensors}


def through(
    kind: gguf.GGMLQuantizationType, weight: Tensor, importance: Tensor
) -> tuple[Tensor, int]:
    """``weight`` after ggml's quantizer and the reader of the gguf package; the bits between."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    joined = block // math.gcd(block, weight.shape[1])
    rows = np.ascontiguousarray(weight.float().reshape(-1, weight.shape[1] * joined).numpy())
    wanted = np.ascontiguousarray(importance.repeat(joined).numpy())
    shape = gguf.quant_shape_to_byte_shape(rows.shape, kind)
    codes = np.empty(shape, np.uint8)
    floats = ctypes.POINTER(ctypes.c_float)
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, floats, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [floats]
    )
    size = library.ggml_quantize_chunk(
        int(kind),
        rows.ctypes.data_as(floats),
        codes.ctypes.data,
        0,
        *rows.shape,
        wanted.ctypes.data_as(floats),
    )
    assert size == codes.nbytes, (size, codes.nbytes)
    values = gguf.dequantize(codes, kind)
    return torch.from_numpy(values).reshape(weight.shape), 8 * codes.nbytes


run(quantize)
