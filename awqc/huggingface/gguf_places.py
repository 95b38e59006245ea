"""Where the tensors of a model lie in a GGUF file of it: proposed by names, proved by values.

The ``gguf`` package has tables of names; what they say is tried first. A tensor that they do not
name, or name wrongly, is found among all others by its values. Rows may lie in another order, as
those of queries and keys do where pairs of a rotary embedding are stored side by side, and a norm
may be stored as ``1 + w``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from awqc.findings import GgufPlace
from awqc.huggingface.gguf_template import GgufTemplate, GgufTensor
from awqc.huggingface.layout import ByRows, find_layout

TOLERANCE = {"F32": 1e-4, "F16": 2e-3, "BF16": 1e-2}
"""Largest ``|found - wanted| / |wanted|`` of a tensor of a floating type."""
QUANTIZED = 0.6
"""The same of a quantized one; tensors that have nothing to do with each other reach 1."""
DIRECTIONS = 64
"""On which rows are projected, to find each among the others."""
PARTS = (".weight", ".bias")


def find_places(
    template: GgufTemplate, state: Mapping[str, Tensor], known: Set[str]
) -> dict[str, GgufPlace]:
    """The place of each tensor of ``template`` in ``state``, by the template's names.

    What is found nowhere is left out. Of several names of one parameter, one of ``known`` is taken.
    """
    names: dict[int, str] = {}
    for name, value in state.items():
        if name in known or value.data_ptr() not in names:
            names[value.data_ptr()] = name
    proposed: dict[str, list[str]] = {}
    for name, wanted in _proposed(template, state):
        proposed.setdefault(wanted, []).append(name)
    places: dict[str, GgufPlace] = {}
    for tensor in sorted(template.tensors, key=lambda each: -len(each.shape)):
        place = _find(tensor, state, proposed.get(tensor.name, []), places)
        if place is not None:
            source = names[state[place.source].data_ptr()]
            places[tensor.name] = replace(place, source=source)
    return places


def _proposed(template: GgufTemplate, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names of ``state`` with the names that the tables of ``gguf`` have for them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if template.architecture not in known:
        return
    names = get_tensor_name_map(known[template.architecture], template.blocks)
    for name in state:
        wanted = names.get_name(name, try_suffixes=PARTS)
        if wanted is not None:
            yield name, wanted


def _find(
    tensor: GgufTensor,
    state: Mapping[str, Tensor],
    proposed: list[str],
    places: Mapping[str, GgufPlace],
) -> GgufPlace | None:
    found = tensor.by_rows()
    alike = [n for n, t in state.items() if t.numel() == found.numel and n not in proposed]
    for name in [n for n in proposed if n in state] + alike:
        order = _order_of_weight(tensor, name, places)
        if (place := _fit(tensor, found, name, state[name], order)) is not None:
            return place
    return None


def _order_of_weight(
    tensor: GgufTensor, name: str, places: Mapping[str, GgufPlace]
) -> Tensor | None:
    """The order of the rows of the weight beside this bias, if there is one."""
    stem, _, part = tensor.name.rpartition(".")
    place = places.get(f"{stem}.weight") if part != "weight" else None
    same = place is not None and place.source.rpartition(".")[0] == name.rpartition(".")[0]
    return place.rows if place is not None and same else None


def _fit(
    tensor: GgufTensor, found: ByRows, name: str, original: Tensor, order: Tensor | None
) -> GgufPlace | None:
    """How ``original`` lies in ``tensor``, or None if it does not."""
    tolerance = TOLERANCE.get(tensor.type, QUANTIZED)
    if original.numel() != found.numel:
        return None
    same_axes = original.ndim == len(found.shape)  # else axes of one element come or go
    plain = original if same_axes else original.reshape(found.shape)
    if order is not None:
        plain = plain[order]
    layout = find_layout(plain, found, tolerance)
    rows = len(found.shape) == 2 and tuple(plain.shape) == found.shape
    if layout is None and rows and order is None:
        order = _order_of_rows(plain, found)
        layout = None if order is None else find_layout(plain[order], found, tolerance)
    if layout is None:
        return None
    return GgufPlace(name, order, layout.transposed, layout.factor, layout.shift)


def _order_of_rows(original: Tensor, found: ByRows) -> Tensor | None:
    """For each row of ``found`` the nearest of ``original``, if each of these is once."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(found.shape[1], DIRECTIONS, generator=generator)
    own = ByRows.of(original)
    first, second = (
        torch.cat([each.rows(start, stop) @ directions for start, stop in each.slices()])
        for each in (found, own)
    )
    step = max(1, 2**24 // len(second))
    nearest = torch.cat([torch.cdist(part, second).argmin(1) for part in first.split(step)])
    return nearest if len(nearest.unique()) == len(nearest) else None


@dataclass(frozen=True)
class Unplaced:
    """What of a model and of a GGUF file has no place in the other.

    Attributes:
        tensors: of the file.
        parameters: of the model.
    """

    tensors: tuple[GgufTensor, ...]
    parameters: tuple[str, ...]


def unplaced(
    template: GgufTemplate, state: Mapping[str, Tensor], places: Mapping[str, GgufPlace]
) -> Unplaced:
    """What is left; a parameter that shares its memory with one that has a place has one too."""
    sources = {place.source for place in places.values()}
    kept = {state[name].data_ptr() for name in sources}
    parameters = [
        name
        for name, value in state.items()
        if name not in sources and value.data_ptr() not in kept and value.is_floating_point()
    ]
    left = [tensor for tensor in template.tensors if tensor.name not in places]
    return Unplaced(tuple(left), tuple(parameters))
