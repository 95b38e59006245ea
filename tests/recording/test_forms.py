"""Forms of calls: by the tensors and the numbers that they take."""

from __future__ import annotations

from typing import Any

import torch

from awqc.recording.forms import MOST_FORMS, calls_by_form
from awqc.recording.outermost import OutsideCall
from awqc.recording.structures import leaves

X = torch.ones(1, 2)


def call(**arguments: Any) -> OutsideCall:
    before = leaves(arguments)
    return OutsideCall("part", arguments, before, before, {}, None)


def test_a_form_has_the_name_of_what_it_takes_besides() -> None:
    calls = [call(x=X), call(x=X, past=[X]), call(x=X), call(x=X, past=[X])]
    assert list(calls_by_form("part", calls)) == ["part", "part_with_past"]


def test_numbers_that_differ_are_in_the_name() -> None:
    calls = [call(x=X, place=n, on=True) for n in (2, 3, 2, 3)]
    assert list(calls_by_form("part", calls)) == ["part_place_2", "part_place_3"]


def test_many_forms_are_one() -> None:
    calls = [call(x=X, place=n) for n in range(MOST_FORMS + 1) for _ in range(2)]
    assert list(calls_by_form("part", calls)) == ["part"]
    assert list(calls_by_form("part", calls[:3])) == ["part"]  # of one there is a single call
