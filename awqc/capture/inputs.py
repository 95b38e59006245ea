"""Example inputs of a model: from ``inputs`` specs, from arrays, or inferred."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import UsageError, spelled
from awqc.machine.process import quiet_libraries
from awqc.machine.room import available
from awqc.program import InputSpec

FORM = "name=float32[batch,64]"
_SPEC = re.compile(r"\s*(?P<name>[^=\s]+)\s*=\s*(?P<dtype>\w+)\s*\[(?P<sizes>[^\]]*)\]\s*")
_BATCH_SIZE = 2
_OTHER_SIZE = 16
_IMAGE_SIZES = (32, 28, 64, 224)


def parse_inputs(specs: Sequence[str]) -> tuple[InputSpec, ...]:
    """Inputs of specs such as ``ids=int64[batch,seq]``: a word is a dynamic axis.

    >>> [str(spec) for spec in parse_inputs(["x=float32[batch,64]"])]
    ['x=float32[batch,64]']

    Raises:
        UsageError: a spec that cannot be read, or a name given twice.
    """
    parsed = tuple(_parse(spec) for spec in specs)
    names = [spec.name for spec in parsed]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{spelled('inputs')}: {name!r} is given twice")
    return parsed


def _parse(text: str) -> InputSpec:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"{spelled('inputs', [text])} cannot be read; the form is {FORM}")
    dtype = getattr(torch, match["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"{spelled('inputs', [text])}: {match['dtype']!r} is no dtype; use float32, float16, "
            f"bfloat16, int64, int32, bool, … as in {FORM}"
        )
    words = match["sizes"].split(",") if match["sizes"].strip() else []
    return InputSpec(match["name"], dtype, tuple(_size(word.strip(), text) for word in words))


def _size(word: str, text: str) -> int | str:
    if word.isdecimal() and int(word) > 0:
        return int(word)
    if word.isidentifier():
        return word
    raise UsageError(
        f"{spelled('inputs', [text])}: {word!r} is no size; give a positive number, or a name for "
        f"a dynamic axis, as in {FORM}"
    )


def make_example(
    specs: Sequence[InputSpec], *, seed: int = 0, rows: int | None = None
) -> dict[str, Tensor]:
    """Seeded tensors that fit ``specs``; integers below ``rows`` (2 if None).

    A first axis that has a name gets the size 2, other named axes 16; equal names are
    equal sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    firsts = {spec.shape[0] for spec in specs if spec.shape}
    example = {}
    for spec in specs:
        shape = [
            size if isinstance(size, int) else _BATCH_SIZE if size in firsts else _OTHER_SIZE
            for size in spec.shape
        ]
        needed, free = math.prod(shape) * spec.dtype.itemsize, available()
        if needed > free:
            raise UsageError(
                f"input {spec.name!r}: the example would take {needed / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free; give smaller sizes"
            )
        example[spec.name] = random_tensor(shape, spec.dtype, generator, rows or 2)
    return example


def random_tensor(
    shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, rows: int
) -> Tensor:
    """Normal floats, integers in ``[0, rows)``, or flags, by ``dtype``.

    Each row of flags begins with False and ends with True: whichever of both masks, no row is
    masked as a whole, which gives NaN in most models.
    """
    if dtype == torch.bool:
        flags = torch.rand(*shape, generator=generator) < 0.5
        if shape and shape[-1] > 1:
            flags[..., 0], flags[..., -1] = False, True
        return flags
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(*shape, generator=generator).to(dtype)
    bound = min(rows, torch.iinfo(dtype).max)
    return torch.randint(0, bound, tuple(shape), generator=generator).to(dtype)


def dynamic_axes(specs: Sequence[InputSpec]) -> dict[str, dict[int, str]]:
    """The named axes of each spec that has some."""
    named = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in specs
    }
    return {name: axes for name, axes in named.items() if axes}


def given_inputs(module: nn.Module, specs: Sequence[InputSpec], seed: int) -> dict[str, Tensor]:
    """The example for ``inputs`` specs, checked against the names that forward takes.

    Raises:
        UsageError: forward takes no such input, or needs one that is not given.
    """
    names = [spec.name for spec in specs]
    required, accepted, anything = forward_parameters(module)
    unknown = [name for name in names if name not in accepted]
    missing = [name for name in required if name not in names]
    if (unknown and not anything) or missing:
        wrong = (
            f"{unknown[0]!r} is not one"
            if unknown and not anything
            else (f"{missing[0]!r} is missing")
        )
        raise UsageError(f"{spelled('inputs')}: {wrong}. {describe_forward(module)}")
    return make_example(specs, seed=seed, rows=smallest_table(module))


def inputs_from_arrays(module: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Two samples of each array that is named after a parameter of forward.

    The first such array says how many samples there are; one of another length is taken
    whole, as an input that all samples share.
    None if an input that forward needs is not among them.
    """
    required, accepted, anything = forward_parameters(module)
    if any(name not in arrays for name in required):
        return None
    named = {name: t for name, t in arrays.items() if anything or name in accepted}
    counts = [t.shape[0] for t in named.values() if t.ndim]
    return {
        name: _as_dtype(t[:_BATCH_SIZE] if t.ndim and t.shape[0] == counts[0] else t, module)
        for name, t in named.items()
    } or None


def infer_example(module: nn.Module, *, seed: int = 0) -> tuple[Tensor, ...]:
    """The example that the first layer asks for, proved by a run of the model.

    ``Linear`` asks for ``[2, in_features]``, a convolution for ``[2, channels, 32, …]``
    (other image sizes are tried), ``Embedding`` for integers ``[2, 16]``.

    Raises:
        UsageError: the first layer leaves a doubt; the message shows the flag.
    """
    required, _, _ = forward_parameters(module)
    if len(required) == 1:
        for shape, dtype in _first_layer_shapes(module):
            generator = torch.Generator().manual_seed(seed)
            example = random_tensor(shape, dtype, generator, smallest_table(module) or 2)
            if _runs(module, example):
                return (example,)
    raise UsageError(
        f"the inputs of {type(module).__name__} cannot be inferred: its first layer leaves "
        f"their shapes open, or the model fails on what it asks for. {describe_forward(module)}"
    )


def _first_layer_shapes(module: nn.Module) -> list[tuple[tuple[int, ...], torch.dtype]]:
    layer = next((m for m in module.modules() if m._parameters), None)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return [((_BATCH_SIZE, _OTHER_SIZE), torch.int64)]
    if isinstance(layer, nn.Linear):
        return [((_BATCH_SIZE, layer.in_features), layer.weight.dtype)]
    for spatial, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
        if isinstance(layer, kind):
            head = (_BATCH_SIZE, layer.in_channels)
            return [((*head, *[size] * spatial), layer.weight.dtype) for size in _IMAGE_SIZES]
    return []


def _runs(module: nn.Module, example: Tensor) -> bool:
    try:
        with torch.no_grad(), quiet_libraries():
            deepcopy(module).eval()(example)
    except Exception:  # noqa: BLE001 - whatever fails, this is not the input
        return False
    return True


def _as_dtype(tensor: Tensor, module: nn.Module) -> Tensor:
    """Floats in the dtype of the module's parameters."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), tensor.dtype)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def smallest_table(module: nn.Module) -> int | None:
    """Rows of the smallest embedding table: what any index input may surely reach."""
    rows = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    return min(rows, default=None)


def forward_parameters(module: nn.Module) -> tuple[list[str], list[str], bool]:
    """Names that forward needs, names that it takes, and whether it takes any name."""
    parameters = inspect.signature(module.forward).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in parameters if p.kind not in variable]
    required = [p.name for p in named if p.default is inspect.Parameter.empty]
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return required, [p.name for p in named], anything


def describe_forward(module: nn.Module) -> str:
    """What forward takes, and the option that would give it, for an error message."""
    signature: Any = inspect.signature(module.forward)
    bare = signature.replace(
        parameters=[
            p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    required, accepted, _ = forward_parameters(module)
    names = required or accepted[:1] or ["name"]
    given = spelled("inputs", [f"{name}=float32[batch,64]" for name in names])
    return (
        f"{type(module).__name__}.forward takes {bare}; describe each input with its dtype and "
        f"sizes (a word is a dynamic axis): {given}"
    )
