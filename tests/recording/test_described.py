"""Forms of results in JSON: what they are made of again, and what is no form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from awqc.errors import CaptureError, UsageError
from awqc.recording.described import described, of_form
from awqc.recording.structures import leaves

TRANSFORMERS = ("transformers",)


def again(value: Any) -> Any:
    """``value`` as it is made of its form and its tensors."""
    return of_form(json.loads(json.dumps(described(value))), leaves(value), TRANSFORMERS)


def test_nests_are_what_they_were() -> None:
    x = torch.ones(2)
    assert again((1, [x, None], {"a": {3: x}})) == (1, [x, None], {"a": {3: x}})
    assert again(x) is x
    assert again({"kind": torch.float16, "place": torch.device("cpu")}) == {
        "kind": torch.float16, "place": torch.device("cpu"),
    }  # fmt: skip


def test_objects_of_a_library_are_what_they_were() -> None:
    from transformers import DynamicCache
    from transformers.modeling_outputs import BaseModelOutput

    cache = DynamicCache()
    cache.update(torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    x = torch.ones(2)
    made = again(BaseModelOutput(x, hidden_states=(torch.ones(1),)))  # type: ignore[arg-type]  # tensors are what it holds
    assert isinstance(made, BaseModelOutput)
    assert made.last_hidden_state is x
    found = again(cache)
    assert isinstance(found, DynamicCache)
    assert found.get_seq_length() == 3


def iter_nothing() -> Iterator[int]:
    yield from ()


class Own:
    def __init__(self) -> None:
        self.x = torch.ones(1)


def test_what_has_no_words_is_refused() -> None:
    with pytest.raises(CaptureError, match="is a generator, which has no words"):
        described({"a": iter_nothing()})
    with pytest.raises(UsageError, match="is in none of transformers"):
        again(Own())


@pytest.mark.parametrize(
    "form",
    [
        {"class": "os:system"},
        {"class": "subprocess:Popen", "items": [["args", "ls"]]},
        {"class": "transformers:BertModel", "attributes": []},
        {"class": "transformers.cache_utils:gone", "attributes": []},
        {"class": "transformers.cache_utils:torch", "items": []},
        {"class": "transformers.cache_utils:DynamicCache", "items": []},
        {"dtype": "load"},
        {"tensor": "gone"},
        {"other": 1},
        {"list": 5},
    ],
)
def test_a_damaged_form_is_refused(form: Any) -> None:
    with pytest.raises(UsageError, match="the form"):
        of_form(form, {}, TRANSFORMERS)
