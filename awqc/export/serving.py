"""Checkpoints for serving engines: a Hugging Face folder whose linears hold packed codes.

What a format cannot hold is written in float, with the scales folded into it, and named in
the report; the codes of the others are the program's own, value for value.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from awqc.artifacts.safetensors_file import Unwritten, write_safetensors
from awqc.errors import ExportError, UsageError, spelled
from awqc.export.whole_numbers import int_grid
from awqc.huggingface.checkpoint import Checkpoint, folded_checkpoint
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.runner_files import write_model_files
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.int_grid import Bits, IntGrid
from awqc.numerics.regrouping import regrouped
from awqc.program import Origin, Program

GROUP_SIZES = (128, 64, 32)
"""What the engines have kernels for, largest first."""


@dataclass(frozen=True)
class Held:
    """A weight as a checkpoint holds it: nothing is made before it is asked for.

    Attributes:
        source: the program's own.
        form: the width and the groups that the checkpoint has.
    """

    source: QuantizedWeight
    form: IntGrid

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.source.rows

    @property
    def columns(self) -> int:
        """Input channels."""
        return self.source.columns

    @property
    def groups(self) -> int:
        """Of each row."""
        return self.form.groups(self.columns)

    def weight(self) -> QuantizedWeight:
        """The weight in ``form``."""
        return regrouped(self.source, self.form.group_size, self.form.bits)


class ServingFormat(ABC):
    """A way to store linears of low bit widths in a checkpoint.

    Attributes:
        name: on the command line.
        bits: the widths that it holds; narrower codes are stored in the next one.
        rows: what the output channels of a weight must be a multiple of.
        dtype: of all floating tensors; None: as the model came.
    """

    name: ClassVar[str]
    bits: ClassVar[tuple[Bits, ...]]
    rows: ClassVar[int]
    dtype: ClassVar[torch.dtype | None] = None

    @abstractmethod
    def tensors(self, held: Held) -> dict[str, Unwritten]:
        """What stands in place of a weight, by the last part of its name.

        Its width is one of `bits`, and its groups divide its columns.
        """

    @abstractmethod
    def config(
        self, forms: Mapping[str, IntGrid], group_size: int, floats: Sequence[str]
    ) -> dict[str, Any]:
        """``quantization_config``: ``forms`` by module, ``floats`` modules left in float."""

    def width(self, form: WeightFormat) -> Bits | None:
        """The width in which codes of ``form`` are stored, if any."""
        bits = form.bits if isinstance(form, IntGrid) else math.inf
        return next((width for width in self.bits if width >= bits), None)

    def why_not(self, form: WeightFormat) -> str | None:
        """Why this format has no place for weights in ``form``, or None if it has."""
        if not isinstance(form, IntGrid):
            return f"{form}, and the format holds whole numbers with a scale a group"
        if self.width(form) is None:
            return f"{form.bits} bits, and the format holds {self.bits[-1]} bits at most"
        return None


def write_serving(program: Program, folder: Path, form: ServingFormat) -> Path:
    """Write ``program`` into ``folder``: weights, config.json and the tokenizer.

    Returns the path of config.json.

    Raises:
        ExportError: scales are applied at run time, the format can hold no weight of the
            model, or a value is beyond its floating dtype.
        OSError: the folder cannot be written.
    """
    refuse_runtime_scales(program, form.name)
    checkpoint = folded_checkpoint(program)
    reasons = {
        name: _refuse(checkpoint, name, program, form) for name in program.findings.quantized
    }
    held = [name for name, reason in reasons.items() if reason is None]
    if not held:
        why = "; ".join(sorted({str(reason) for reason in reasons.values()}))
        raise ExportError(
            f"{program.name}: {form.name} can hold none of the quantized weights"
            f"{f' ({why})' if why else ''}; write onnx or pt2 instead"
        )
    for name, reason in reasons.items():
        if reason is not None:
            told = {f"{name} ({form.name})": f"written in float: {reason}"}
            program.learn(skipped={**program.findings.skipped, **told})
    group_size = next(s for s in GROUP_SIZES if all(_fits(program, name, s) for name in held))
    folder.mkdir(parents=True, exist_ok=True)
    dtype = form.dtype or program.source_dtype
    stored = {
        name.removesuffix(".weight"): _held(program.findings.quantized[name], group_size, form)
        for name in held
    }
    _write_weights(checkpoint, stored, form, folder, dtype)
    linears = [n for n, m in checkpoint.model.named_modules() if isinstance(m, nn.Linear)]
    floats = [name for name in linears if name not in stored]
    forms = {name: weight.form for name, weight in stored.items()}
    return _write_config(program, folder, form.config(forms, group_size, floats), dtype)


def _held(weight: QuantizedWeight, group_size: int, form: ServingFormat) -> Held:
    width = form.width(weight.format)
    assert width is not None
    return Held(weight, IntGrid(width, group_size, int_grid(weight.format).symmetric))


def _fits(program: Program, name: str, group_size: int) -> bool:
    weight = program.findings.quantized[name]
    width = weight.format.width(weight.columns)
    return math.gcd(width, weight.columns) % group_size == 0


def refuse_runtime_scales(program: Program, form: str) -> None:
    """Raise ExportError where scales are applied at run time, which ``form`` cannot hold."""
    for site in program.findings.sites:
        if site.status == "runtime" and site.name in program.findings.scales:
            raise ExportError(
                f"{program.name}: the input of {site.name} is scaled at run time, which "
                f"{form} cannot hold; compile with "
                f"{spelled('runtime_scales', 'never')}"
            )


def _refuse(checkpoint: Checkpoint, name: str, program: Program, form: ServingFormat) -> str | None:
    """Why the format cannot hold the weight, or None if it can."""
    weight, module = program.findings.quantized[name], checkpoint.module(name)
    if checkpoint.shared(name):
        return "the table and the head share it"
    if module is checkpoint.model.get_output_embeddings():
        return "engines read the head in float"
    if not isinstance(module, nn.Linear):
        return f"a {type(module).__name__}, and the format holds Linear only"
    if (reason := form.why_not(weight.format)) is not None:
        return reason
    if weight.rows % form.rows:
        return f"its {weight.rows} output channels are no multiple of {form.rows}"
    if not _fits(program, name, GROUP_SIZES[-1]):
        return f"its groups are no multiples of {GROUP_SIZES[-1]}"
    return None


def _write_weights(
    checkpoint: Checkpoint,
    stored: Mapping[str, Held],
    form: ServingFormat,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    state: dict[str, Unwritten] = {}
    written: set[int] = set()
    for name, value in checkpoint.state.items():
        if value.numel() and value.data_ptr() in written:
            continue  # tied: written under its first name
        written.add(value.data_ptr())
        module = name.removesuffix(".weight")
        if module in stored and name != module:
            for leaf, tensor in form.tensors(stored[module]).items():
                state[f"{module}.{leaf}"] = _in_dtype(tensor, dtype)
        elif value.is_floating_point():
            make = partial(_float, checkpoint, name, dtype, form)
            state[name] = Unwritten(dtype, tuple(value.shape), make)
        else:
            state[name] = Unwritten.of(value)
    _save(state, folder)


def _in_dtype(tensor: Unwritten, dtype: torch.dtype) -> Unwritten:
    if not tensor.dtype.is_floating_point:
        return tensor
    return Unwritten(dtype, tensor.shape, lambda: tensor.make().to(dtype))


def _float(checkpoint: Checkpoint, name: str, dtype: torch.dtype, form: ServingFormat) -> Tensor:
    """A tensor that the format has in float."""
    value = checkpoint.tensor(name, dtype, quantized=False)
    if not value.isfinite().all():
        raise ExportError(f"{name}: has values beyond {dtype}, in which {form.name} is")
    return value


def _save(state: Mapping[str, Unwritten], folder: Path) -> None:
    """Write safetensors, in shards with an index where they are large."""
    from huggingface_hub import split_torch_state_dict_into_shards

    shapes = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in state.items()
    }
    split = split_torch_state_dict_into_shards(shapes)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: state[name] for name in names}
        write_safetensors(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _write_config(
    program: Program, folder: Path, quantization: dict[str, Any], dtype: torch.dtype
) -> Path:
    """The model's own config.json and tokenizer files, and what was done to the weights."""
    origin = HFFolder.of(program)
    write_model_files(program, origin, folder, origin.config())
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("torch_dtype", None)
    content["dtype"] = str(dtype).removeprefix("torch.")
    content["quantization_config"] = quantization
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def prepare_serving(program: Program, forms: Sequence[ServingFormat]) -> None:
    """Make a program ready for ``forms``, before anything is computed.

    Engines hold scales in float16: scales are chosen so that it holds them exactly.

    Raises:
        UsageError: the program is no decoder from a Hugging Face folder.
    """
    for form in forms:
        check_decoder(program, form.name)
    if forms and program.scale_dtype == torch.float32:
        program.scale_dtype = torch.float16


def check_decoder(program: Program, form: str) -> Origin:
    """Where ``program`` comes from.

    Raises:
        UsageError: it is no decoder from a Hugging Face folder, as ``form`` needs it.
    """
    if program.task.origin is None or not program.states or not program.head_outputs:
        raise UsageError(
            f"{program.name}: the format {form} is for decoders that generate text and "
            "come from a Hugging Face folder or a GGUF file; choose onnx or pt2"
        )
    return program.task.origin
