"""The format ``gguf``: one file for llama.cpp and all that read its files.

Names, metadata and tokenizer come from a GGUF file of the same model, which the user gives or which
the model was read from; where its tensors lie in the model is found by value
(`awqc.huggingface.gguf_places`). Folded scales, codes and their factors are the program's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.artifacts.names import GGUF
from awqc.errors import ExportError, UsageError, spelled
from awqc.export.serving import check_decoder, refuse_runtime_scales
from awqc.findings import FLOAT, Allocation, GgufPlace, GgufTarget
from awqc.huggingface.checkpoint import Checkpoint, folded_checkpoint
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.gguf_places import find_places, unplaced
from awqc.huggingface.gguf_template import FLOATS, GgufTemplate, GgufTensor, open_template
from awqc.huggingface.layout import Layout
from awqc.huggingface.tasks import find_task
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.found import NAMED
from awqc.numerics.formats.ggml_blocks import BLOCK, ggml_type, to_blocks, why_not_ggml
from awqc.program import Program

NAME = "gguf"
SMALL = 4096
"""Elements below which a tensor that the model does not have is taken over as it is."""
FILE_TYPES = {
    "Q2_K": "MOSTLY_Q2_K", "Q3_K": "MOSTLY_Q3_K_M", "Q4_K": "MOSTLY_Q4_K_M",
    "Q5_K": "MOSTLY_Q5_K_M",
}  # fmt: skip
"""What llama.cpp calls a file most of whose weights have a type, where that is not its own name."""
OWN = ("general.file_type", "general.quantization_version", "general.architecture")
"""Metadata that is written anew."""


@dataclass(frozen=True)
class _Entry:
    """A tensor to be written.

    Attributes:
        name: in the file.
        type: of ggml.
        shape: as torch has it.
        make: its bytes, or its floats.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


def prepare_gguf(program: Program, file: str | Path | None, as_template: bool) -> None:
    """Make ``program`` ready to be written as GGUF, before anything is computed.

    Args:
        program: from a Hugging Face folder or a GGUF file.
        file: a GGUF file of the same model; None: the one that the program was read from.
        as_template: whether weights get the types that they have in ``file``, where these are
            quantized ones.

    Raises:
        UsageError: there is no such file, it cannot be read, or it is another model's.
    """
    template = open_template(_template_path(program, file))
    folder = HFFolder.of(program)
    task = find_task(folder.config(), None, where=program.name, default="text-generation")
    model, _ = folder.model(task.load_class())
    state = model.state_dict()
    places = find_places(template, state, set(program.parameters()))
    _check_places(program, template, state, places)
    program.learn(gguf=GgufTarget(template.path, places))
    taken = file is not None and as_template and template.quantized
    formats = _types(template, places) if taken else {}
    floats = {
        places[tensor.name].source: FLOAT
        for tensor in template.tensors
        if tensor.name in places and not _has_blocks(tensor, places[tensor.name])
    }
    program.learn(allocation=Allocation({}, formats={**formats, **floats}))
    if program.scale_dtype == torch.float32:
        program.scale_dtype = torch.float16


def _has_blocks(tensor: GgufTensor, place: GgufPlace) -> bool:
    """Whether the file can hold codes of a tensor: a matrix whose values are the parameter's."""
    return len(tensor.shape) == 2 and tensor.shape[1] % BLOCK == 0 and place.same_values


def _template_path(program: Program, file: str | Path | None) -> Path:
    origin = check_decoder(program, NAME)
    if file is not None:
        return Path(file).expanduser()
    if origin.gguf_file is not None:
        return origin.path / origin.gguf_file
    raise UsageError(
        f"{program.name}: the format gguf takes names, metadata and tokenizer from a GGUF file of "
        f"the same model, of any type; give it as {spelled('gguf')}. convert_hf_to_gguf.py of "
        "llama.cpp makes one of a Hugging Face folder"
    )


def _check_places(
    program: Program,
    template: GgufTemplate,
    state: Mapping[str, Tensor],
    places: Mapping[str, GgufPlace],
) -> None:
    """Refuse a file of another model, and tensors that would be written unchanged or left out."""
    rest = unplaced(template, state, places)
    large = [each.name for each in rest.tensors if each.by_rows().numel >= SMALL]
    if large:
        raise UsageError(
            f"{template.path}: {len(large)} of its {len(template.tensors)} tensors "
            f"({', '.join(large[:3])}…) hold values that {program.name} has nowhere: it is another "
            "model's, or stores weights in a form that awqc cannot undo. Give a GGUF file of this "
            "very model, or write onnx or pt2"
        )
    if rest.parameters:
        raise UsageError(
            f"{template.path}: holds no tensor for {len(rest.parameters)} parameters of "
            f"{program.name} ({', '.join(rest.parameters[:3])}…); give a GGUF file of this very "
            "model, or write onnx or pt2"
        )


def _types(template: GgufTemplate, places: Mapping[str, GgufPlace]) -> dict[str, str]:
    """The formats of parameters, as their tensors have them in the file; floats stay so.

    Raises:
        UsageError: awqc does not make one of the types.
    """
    found = {}
    for tensor in template.tensors:
        if tensor.name not in places:
            continue
        if tensor.is_float:
            found[places[tensor.name].source] = FLOAT
            continue
        if tensor.type not in NAMED:
            raise UsageError(
                f"{template.path}: the tensor {tensor.name} is in {tensor.type}, which awqc does "
                f"not make; it makes {', '.join(sorted(NAMED))}. Say what to make instead "
                f"({spelled('weight_format')})"
            )
        found[places[tensor.name].source] = tensor.type
    return found


def write_gguf(program: Program, folder: Path) -> Path:
    """Write ``program`` as a GGUF file into ``folder``; returns its path.

    Raises:
        ExportError: scales are applied at run time, or a quantized weight has no place.
        OSError: it cannot be written.
    """
    target = program.findings.gguf
    assert target is not None, "prepare_gguf comes first"
    refuse_runtime_scales(program, NAME)
    template, checkpoint = open_template(target.path), folded_checkpoint(program)
    entries = [_entry(program, checkpoint, target, tensor) for tensor in template.tensors]
    kinds = Counter(
        entry.type for entry in entries if entry.type not in FLOATS for _ in range(entry.shape[0])
    )
    if not kinds:
        raise ExportError(
            f"{program.name}: gguf can hold none of the quantized weights; write onnx or pt2 "
            "instead"
        )
    return _write(program, template, entries, kinds.most_common(1)[0][0], folder / GGUF)


def _entry(
    program: Program, checkpoint: Checkpoint, target: GgufTarget, tensor: GgufTensor
) -> _Entry:
    place = target.places.get(tensor.name)
    if place is None:
        return _Entry(tensor.name, tensor.type, tensor.shape, lambda: np.asarray(tensor.data))
    weight = program.findings.quantized.get(place.source)
    if weight is None:
        kind = tensor.type if tensor.is_float else "F16"
        make = partial(_floats, checkpoint, place, tensor, kind)
        return _Entry(tensor.name, kind, tensor.shape, make)
    reason = why_not_ggml(weight)
    if reason is None and checkpoint.layouts[place.source].transposed != place.transposed:
        reason = "its rows are columns of the file"
    if reason is not None:
        raise ExportError(
            f"{place.source}: gguf cannot hold it ({reason}); leave it in float "
            f"({spelled('exclude')}), or write onnx or pt2 instead"
        )
    return _Entry(
        tensor.name, ggml_type(weight.format), tensor.shape, partial(_blocks, weight, place)
    )  # fmt: skip


def _blocks(weight: QuantizedWeight, place: GgufPlace) -> NDArray[Any]:
    """The codes of ``weight``, rows in the order of the file."""
    made = to_blocks(weight)
    return (made if place.rows is None else made[place.rows]).numpy()


def _floats(
    checkpoint: Checkpoint, place: GgufPlace, tensor: GgufTensor, kind: str
) -> NDArray[Any]:
    """A tensor in a floating type, as the file lays it; BF16 as whole numbers of two bytes."""
    own = checkpoint.tensor(place.source, torch.float32, quantized=False)
    if not place.transposed and own.shape != tensor.shape:
        own = own.reshape(tensor.shape)
    if place.rows is not None:
        own = own[place.rows]
    layout = Layout(place.transposed, place.factor, place.shift)
    value = layout.to_program(own).contiguous().to(FLOATS[kind])
    if not value.isfinite().all():
        raise ExportError(f"{place.source}: has values beyond {kind}, in which gguf has it")
    return value.view(torch.int16).numpy() if kind == "BF16" else value.numpy()


def _write(
    program: Program, template: GgufTemplate, entries: list[_Entry], kind: str, path: Path
) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, template.architecture)
    for key, field in template.fields.items():
        if key in OWN or key.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    known = FILE_TYPES.get(kind, f"MOSTLY_{kind}")
    writer.add_file_type(gguf.LlamaFileType[known])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in program.quantization.metadata().items():
        writer.add_string(name, value)
    for entry in entries:
        _announce(writer, entry)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        writer.write_tensor_data(entry.make())
    writer.close()
    return path


def _announce(writer: Any, entry: _Entry) -> None:
    """Tell the writer of a tensor: its shape in bytes, where it is not of a type of numpy."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[entry.type]
    unit, size = GGML_QUANT_SIZES[kind]
    columns = entry.shape[-1] // unit * size
    dtype = {"F32": np.float32, "F16": np.float16}.get(entry.type, np.uint8)
    shape = entry.shape if dtype is not np.uint8 else (*entry.shape[:-1], columns)
    total = int(np.prod(entry.shape[:-1], dtype=np.int64)) * columns
    writer.add_tensor_info(entry.name, shape, np.dtype(dtype), total, kind)
