"""JSON of any shape: what is expected comes out, or a message with the file and the place."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from awqc.artifacts.json_files import Object, read_json
from awqc.artifacts.recipe import read_recipe
from awqc.errors import UsageError

RECIPE: dict[str, Any] = {
    "schema": 1,
    "pipeline": "canonicalize,quantize-weights",
    "quantization": {"bits": 4, "group_size": "auto", "symmetric": False, "exclude": ["head"]},
    "widths": {"up.weight": 8},
    "sites": {"x": {"status": "folded", "candidate": "awq", "loss_nearest": 2, "loss": 1.5}},
}


def recipe(folder: Path, place: tuple[str, ...], value: Any) -> Path:
    content = copy.deepcopy(RECIPE)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    (folder / "recipe.json").write_text(json.dumps(content))
    save_file({"x": torch.ones(4)}, folder / "scales.safetensors")
    return folder


def test_a_recipe_is_read(tmp_path: Path) -> None:
    found = read_recipe(recipe(tmp_path, (), None))
    assert found.quantization == RECIPE["quantization"]
    assert found.widths == {"up.weight": 8}
    assert (found.status["x"], found.scales["x"].loss) == ("folded", 1.5)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("quantization",), {}, "quantization: has no 'exclude'"),
        (("quantization", "exclude"), 3, "'exclude' is a int; a list is needed"),
        (("quantization", "exclude"), [3], r"exclude\[0\] is a int; text is needed"),
        (("quantization", "bits"), "4", "'bits' is a str; a whole number is needed"),
        (("quantization", "bits"), True, "'bits' is a bool; a whole number is needed"),
        (("quantization", "group_size"), [1], "a whole number or text is needed"),
        (("quantization", "more"), 1, "has the key 'more'; known are bits, "),
        (("widths",), 3, "'widths' is a int; an object is needed"),
        (("widths", "up.weight"), 99, "'up.weight' is 99; it can be one of"),
        (("sites", "x"), 3, "sites: 'x' is a int; an object is needed"),
        (("sites", "x"), {}, "sites, x: has no 'status'"),
        (("sites", "x", "loss"), "small", "'loss' is a str; a number is needed"),
        (("sites", "x", "candidate"), None, "'candidate' is a NoneType; text is needed"),
    ],
)
def test_a_recipe_of_another_shape_is_refused_with_the_place(
    place: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read_recipe(recipe(tmp_path, place, value))
    assert str(tmp_path / "recipe.json") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[]", "holds a JSON list; an object is needed"),
        ('{"a": ' + "9" * 10_000 + "}", "not readable as JSON"),
        ("", "not readable as JSON"),
        ("\udcff", "not readable as JSON"),
    ],
)
def test_no_object_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message):
        read_json(path)


def test_a_value_is_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    found = Object({"n": 3, "t": True, "l": ["a"], "o": {"k": "v"}}, "here")
    assert found.get("n", float) == 3
    assert found.get("missing", int, 7) == 7
    assert found.items("l", str) == ["a"]
    assert found.inside("o").values(str) == {"k": "v"}
    with pytest.raises(UsageError, match="here, o: 'k' is a str; a whole number is needed"):
        found.inside("o").get("k", int)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"a\.json: is no file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("content", "found"), [
    ({}, []), ({"ids": None}, []), ({"ids": 3}, [3]), ({"ids": [3, 4]}, [3, 4]),
])  # fmt: skip
def test_one_or_several(content: dict[str, Any], found: list[int]) -> None:
    assert Object(content, "x").listed("ids", int) == found


@pytest.mark.parametrize("ids", ["3", {}, [[]], [3, True], [3.0], 3.0])
def test_one_or_several_of_another_type(ids: Any) -> None:
    with pytest.raises(UsageError, match=r"ids.* is a .*; .* is needed"):
        Object({"ids": ids}, "x").listed("ids", int)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "[" * 100_000])
def test_text_that_is_no_object(text: str) -> None:
    with pytest.raises(UsageError, match=r"^the place: "):
        Object.of_text(text, "the place")
