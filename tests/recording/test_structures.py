"""Tensors in nests and objects, by path."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import torch

from awqc.recording.structures import constants, leaves, rebuilt
from tests.recording.toys import Cache, Layer

Pair = namedtuple("Pair", "first second")
A, B = torch.zeros(2), torch.ones(3)


def test_tensors_are_found_by_path() -> None:
    value = {"x": A, "more": [B, {"y": A}], "cache": Cache([Layer(B)]), "size": 3, "none": None}
    found = leaves(value)
    assert list(found) == ["x", "more.0", "more.1.y", "cache.own.0.keys"]
    assert found["cache.own.0.keys"] is B
    assert constants(value) == {"cache.own.0.written": False, "size": 3}


def test_what_is_rebuilt_shares_tensors_and_no_object() -> None:
    value: dict[str, Any] = {"cache": Cache([Layer(A)]), "pair": Pair(A, 1)}
    value["named"] = OrderedDict(z=A)
    same: Any = rebuilt(value, {"cache.own.0.keys": B})
    assert same["cache"].own[0].keys is B
    assert value["cache"].own[0].keys is A
    assert same["pair"] == Pair(A, 1)
    assert same["pair"].first is A
    assert type(same["named"]) is OrderedDict
    assert same["named"]["z"] is A
    same["cache"].own.append(Layer())
    assert len(value["cache"].own) == 1


def test_an_object_that_holds_itself_is_walked_once() -> None:
    layer = Layer(A)
    layer.__dict__["above"] = Cache([layer])
    assert list(leaves(layer)) == ["keys"]
