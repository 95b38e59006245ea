"""Records are built field by field, by type; text without a rule is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn
from torch._export.serde import schema
from torch._export.serde.serialize import _bytes_to_dataclass

from awqc.machine.process import quiet_libraries
from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.fields import read_record
from awqc.pt2.read import read_program
from awqc.pt2.rules import KEYS, REPLACED, TEXTS
from tests.pt2.attacks import INPUTS, MODEL, WEIGHTS, Files, edit, good, graph, saved, write


@pytest.fixture
def files() -> Files:
    return good()


def program(files: Files) -> schema.ExportedProgram:
    return read_record(schema.ExportedProgram, files[MODEL], MODEL)


def test_records_are_those_of_torch_but_for_what_is_left_behind(files: Files) -> None:
    found, wanted = program(files), _bytes_to_dataclass(schema.ExportedProgram, files[MODEL])
    assert found.graph_module.signature == wanted.graph_module.signature
    assert found.range_constraints == wanted.range_constraints
    plain = [
        [n.inputs for n in record.graph_module.graph.nodes if "higher_order" not in n.target]
        for record in (found, wanted)
    ]
    assert len(plain[0]) > 5
    assert plain[0] == plain[1]
    assert found.guards_code == []
    for node in found.graph_module.graph.nodes:
        assert set(node.metadata) <= {"nn_module_stack"}


def test_rules_are_for_fields_that_torch_has() -> None:
    for place in {**TEXTS, **KEYS, **REPLACED}:
        kind, _, field = place.partition(".")
        record = getattr(schema, kind)
        assert dataclasses.is_dataclass(record)
        hints = get_type_hints(record, globalns=vars(schema))
        assert field in hints, place


def node(content: Any) -> Any:
    return next(n for n in graph(content)["nodes"] if n["target"].endswith("sym_size.int"))


def argument(content: Any, **value: Any) -> None:
    node(content)["inputs"][1]["arg"] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: graph(c)["custom_obj_values"].update(x={"name": "x", "class_fqn": "a.B"}),
         "an object of a class of its own"),
        (lambda c: argument(c, as_custom_obj={"name": "x", "class_fqn": "y"}),
         "an object of a class of its own"),
        (lambda c: argument(c, as_operator="torch.hub.load"), "a call of"),
        (lambda c: node(c)["inputs"][1].update(name="dim=1, x"), "the name of an argument"),
        (lambda c: node(c).update(name="a = 1; b"), "the name of a value"),
        (lambda c: node(c).update(name="torch"), "the name of a value"),
        (lambda c: node(c)["metadata"].update(nn_module_stack="a\x00b"), "a note"),
        (lambda c: argument(c, as_int="1"), "is a str, int is needed"),
        (lambda c: argument(c, as_int=True), "is a bool, int is needed"),
        (lambda c: argument(c, as_float="1.0"), "'1.0' as"),
        (lambda c: argument(c, as_float=[1]), "as Argument.as_float"),
        (lambda c: argument(c, as_float={}), "as Argument.as_float"),
        (lambda c: argument(c, as_other=1), "as_other"),
        (lambda c: argument(c, as_int=1, as_bool=True), "one of Argument"),
        (lambda c: argument(c, as_device={"type": "x y", "index": None}),
         "a device"),
        (lambda c: argument(c, as_scalar_type=999), "999"),
        (lambda c: node(c).update(target=["torch"]), "is a list, str is needed"),
        (lambda c: node(c).pop("target"), "has no target"),
        (lambda c: graph(c).update(nodes={}), "is a dict, list is needed"),
        (lambda c: graph(c)["inputs"].append({"as_string": "it's"}), "a constant input"),
        (lambda c: c["range_constraints"].update(u9999999999={"min_val": 0, "max_val": 1}),
         "the symbol of a size"),
        (lambda c: c.update(verifiers=["os.system"]), "a dialect"),
        (lambda c: c.update(torch_version="'"), "a name"),
    ],
)  # fmt: skip
def test_what_is_not_as_declared(files: Files, change: Callable[[Any], Any], message: str) -> None:
    edit(files, MODEL, change)
    with pytest.raises((NotAllowedError, DamagedError), match=message):
        program(files)


def test_text_of_a_field_that_torch_may_add_is_refused() -> None:
    @dataclasses.dataclass
    class Added:
        source: str

    with pytest.raises(NotAllowedError, match=r"text that awqc does not know \(Added\.source\)"):
        read_record(Added, b'{"source": "x"}', "x.json")


def test_numbers_that_are_not_finite() -> None:
    for text, value in (('"Infinity"', math.inf), ("2", 2.0), ("0.5", 0.5)):
        content = f'{{"real": {text}, "imag": "-Infinity"}}'.encode()
        found = read_record(schema.ComplexValue, content, "x.json")
        assert (found.real, found.imag) == (value, -math.inf)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"3", b"[" * 99999, b"1" * 5000])
def test_what_is_no_record(content: bytes) -> None:
    with pytest.raises(DamagedError):
        read_record(schema.ExportedProgram, content, MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [{"as_int": 5}, {"as_int": 4}]}, "linear.weight needs 80 bytes, 64 are stored"),
        ({"strides": [{"as_int": 4000}, {"as_int": 1}]}, "needs .* bytes, 64 are stored"),
        ({"storage_offset": {"as_int": 1}}, "needs 68 bytes, 64 are stored"),
        ({"storage_offset": {"as_int": -1}}, "a size that is no number"),
        ({"sizes": [{"as_int": -4}, {"as_int": -4}]}, "a size that is no number"),
        ({"sizes": [{"as_int": 4}]}, "1 axes and 2 strides"),
        ({"sizes": [{"as_int": 2**62}] * 2, "strides": [{"as_int": 2**62}] * 2}, "64 are stored"),
        ({"layout": 1}, "no dense tensor"),
        ({"dtype": 0}, "no dense tensor"),
    ],
)
def test_tensors_stay_within_their_bytes(
    tmp_path: Path, files: Files, change: dict[str, Any], message: str
) -> None:
    edit(files, WEIGHTS, lambda c: c["config"]["linear.weight"]["tensor_meta"].update(change))
    with pytest.raises((NotAllowedError, DamagedError), match=message):
        read_program(write(tmp_path / "a.pt2", files))


@pytest.mark.parametrize("path", ["../x", "weight_0/../x", "/etc/passwd", "tensor_0", "weight_x"])
def test_weights_are_in_their_folder(tmp_path: Path, files: Files, path: str) -> None:
    edit(files, WEIGHTS, lambda c: c["config"]["linear.weight"].update(path_name=path))
    with pytest.raises(NotAllowedError):
        read_program(write(tmp_path / "a.pt2", files))


@pytest.mark.parametrize("value", [3, (1,), ((1,), {2: 3}), ([1], {}), {"a": 1}])
def test_example_inputs_are_arguments(tmp_path: Path, files: Files, value: object) -> None:
    files[INPUTS] = saved(value)
    with pytest.raises(NotAllowedError, match="no plain arguments"):
        read_program(write(tmp_path / "a.pt2", files))


@pytest.mark.filterwarnings("ignore")
def test_example_inputs_are_no_torchscript(tmp_path: Path, files: Files) -> None:
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), tmp_path / "script.pt")
    files[INPUTS] = (tmp_path / "script.pt").read_bytes()
    with quiet_libraries(), pytest.raises(NotAllowedError, match="a pickled object"):
        read_program(write(tmp_path / "a.pt2", files))


def test_fields_that_torch_does_not_know_are_left_behind(files: Files) -> None:
    edit(files, MODEL, lambda content: content.update(more="__import__('os')"))
    assert not hasattr(program(files), "more")
    assert "more" in json.loads(files[MODEL])
