"""The forms in which a part is called: with which tensors, and with which numbers beside them.

::

    decoder(ids)  decoder(ids, past)            decoder, decoder_with_past
    fine(codes, place=2)  fine(codes, place=3)  fine_place_2, fine_place_3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from awqc.recording.outermost import OutsideCall
from awqc.recording.structures import Leaves, constants, leaves

MOST_FORMS = 8


Tensors = tuple[tuple[str, int, torch.dtype], ...]
"""Paths of tensors, each with its number of axes and its dtype."""


class CallForm(NamedTuple):
    """What tells calls of a part from those of another form.

    Attributes:
        tensors: that it takes.
        numbers: numbers, flags and texts by path, those alone that differ between calls.
    """

    tensors: Tensors
    numbers: tuple[tuple[str, Any], ...] = ()


def form_of(arguments: Mapping[str, Any], telling: Sequence[str] = ()) -> CallForm:
    """The form of a call; ``telling`` are the paths of numbers that count."""
    taken: Leaves = leaves(arguments)
    known = constants(arguments)
    return CallForm(
        tuple(sorted((path, x.ndim, x.dtype) for path, x in taken.items())),
        tuple((path, known.get(path)) for path in telling),
    )


def telling_numbers(calls: Sequence[OutsideCall]) -> tuple[str, ...]:
    """Paths of the numbers that are not the same in all of ``calls`` that take the same tensors."""
    found: dict[str, None] = {}
    first: dict[CallForm, dict[str, Any]] = {}
    for call in calls:
        known = constants(call.arguments)
        usual = first.setdefault(form_of(call.arguments), known)
        found |= {path: None for path in {**usual, **known} if usual.get(path) != known.get(path)}
    return tuple(found)


def calls_by_form(part: str, calls: Sequence[OutsideCall]) -> dict[str, list[OutsideCall]]:
    """The calls of each form in which a ``part`` is called, by a name for it.

    A form takes tensors or numbers that another one does not, as a decoder does behind its first
    call. All calls are one form where some form has a single call only, or where there are many.

    The form of fewest tensors has the part's name, another one that of an argument that it takes
    besides: ``decoder`` and ``decoder_with_past``. Forms of other numbers have these.
    """
    telling = telling_numbers(calls)
    found: dict[CallForm, list[OutsideCall]] = {}
    for call in calls:
        found.setdefault(form_of(call.arguments, telling), []).append(call)
    if len(found) > MOST_FORMS or min(map(len, found.values())) < 2:
        return {part: list(calls)}
    least = min((form.tensors for form in found), key=len)
    named: dict[str, list[OutsideCall]] = {}
    for place, (form, own) in enumerate(found.items(), 1):
        name = _name(part, form, least, place)
        named[name if name not in named else f"{name}_{place}"] = own
    return named


def _name(part: str, form: CallForm, least: Tensors, place: int) -> str:
    known = _arguments(least)
    more = [name for name in _arguments(form.tensors) if name not in known]
    name = part
    if form.tensors != least:
        name = f"{part}_with_{more[0]}" if more else f"{part}_{place}"
    numbers = [f"{path.rpartition('.')[2]}_{value}" for path, value in form.numbers]
    written = "_".join([name, *numbers])
    return "".join(letter if letter.isalnum() else "_" for letter in written)


def _arguments(tensors: Tensors) -> list[str]:
    """Names of the arguments that hold the tensors of a form."""
    return list(dict.fromkeys(path.partition(".")[0] for path, _, _ in tensors))
