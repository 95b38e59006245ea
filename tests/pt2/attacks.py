"""Archives that run code when torch's own loader reads them, and the means to make more."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde.schema import SCHEMA_VERSION

from awqc.machine.process import quiet_libraries

MARK = "owned"
CODE = f"getattr(open('{MARK}', 'w'), 'close')()"
MODEL, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = (f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants"))
Files = dict[str, bytes]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (CODE,)


class Net(nn.Module):
    """A parameter, a buffer, a constant, nested inputs, a word, a dynamic axis."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("steps", torch.arange(4.0))
        self.constant = torch.ones(4)

    def forward(self, x: Tensor, more: dict[str, Tensor], *, word: str) -> dict[str, Tensor]:
        with torch.no_grad():
            y = self.linear(x) + more["y"] + self.steps
        return {word: torch.cat([y, y])[: x.shape[0] // 2 + 1] * self.constant}


def example() -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.ones(6, 4), {"y": torch.ones(6, 4)}), {"word": "out"}


def good() -> Files:
    """The members of an archive as torch writes it, by the names behind the root folder."""
    args, kwargs = example()
    axes = {"x": {0: torch.export.Dim.AUTO}, "more": {"y": {0: torch.export.Dim.AUTO}}}
    file = io.BytesIO()
    with quiet_libraries():
        exported = torch.export.export(Net(), args, kwargs, dynamic_shapes={**axes, "word": None})
        torch.export.save(exported, file)
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, files: Files, root: str = "archive/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{root}{name}", content)
    return path


def edit(files: Files, name: str, change: Callable[[Any], None]) -> None:
    """Change the JSON of a member in place."""
    content = json.loads(files[name])
    change(content)
    files[name] = json.dumps(content).encode()


def replace(files: Files, old: str, new: str, name: str = MODEL) -> None:
    """Put the string ``new`` wherever the JSON of a member has the string ``old``."""

    def walk(data: Any) -> Any:
        if isinstance(data, dict):
            return {walk(key): walk(value) for key, value in data.items()}
        if isinstance(data, list):
            return [walk(item) for item in data]
        return new if data == old else data

    found = json.dumps(walk(json.loads(files[name]))).encode()
    assert found != files[name], f"{name} has no {old!r}"
    files[name] = found


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@dataclass(frozen=True)
class Attack:
    """How a good archive is made evil, and when torch runs what it hides.

    Attributes:
        build: changes the members in place, or returns others.
        calls: whether the code runs when the module is called, and not when it is loaded.
    """

    build: Callable[[Files], Files | None]
    calls: bool = False

    def write(self, path: Path) -> Path:
        """An archive with the attack in it."""
        files = good()
        files = self.build(files) or files
        return write(path, files, "" if "version" in files else "archive/")


def graph(content: Any) -> Any:
    return content["graph_module"]["graph"]


def expression(files: Files) -> None:
    sizes = json.loads(files[MODEL])["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    replace(files, sizes[0]["as_expr"]["expr_str"], f"{CODE} or 7")


def shadowed_inputs(files: Files) -> Files:
    return {"data/sample_inputs/MODEL.pT": saved(Evil()), **files}


def pickled_weight(files: Files) -> None:
    files["data/weights/weight_0"] = saved(Evil())
    edit(files, WEIGHTS, lambda c: c["config"]["linear.weight"].update(use_pickle=True))


def opaque_constant(files: Files) -> None:
    files["data/constants/opaque_obj_0"] = pickle.dumps(Evil())
    evil = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit(files, CONSTANTS, lambda c: c["config"].update(evil=evil))


def pickled_constant(files: Files) -> None:
    files["data/constants/tensor_0"] = saved(Evil())
    edit(files, CONSTANTS, lambda c: c["config"]["constant"].update(use_pickle=True))


def spec(content: Any) -> Any:
    return content["graph_module"]["module_call_graph"][0]["signature"]


def enum_key(files: Files) -> None:
    """The keys of a dict are an enum of a module that is imported."""
    context = json.dumps([{"__enum__": True, "fqn": "evil_module:Kind", "name": "out"}])

    def change(content: Any) -> None:
        tree = json.loads(spec(content)["out_spec"])
        tree[1]["context"] = context
        spec(content)["out_spec"] = json.dumps(tree)

    edit(files, MODEL, change)


def default_factory(files: Files) -> None:
    names = {"default_factory_module": "evil_module", "default_factory_name": "Kind"}

    def change(content: Any) -> None:
        tree = json.loads(spec(content)["out_spec"])
        tree[1]["type"] = "collections.defaultdict"
        tree[1]["context"] = {**names, "dict_context": ["out"]}
        spec(content)["out_spec"] = json.dumps(tree)

    edit(files, MODEL, change)


def guard(files: Files) -> None:
    """Checks of inputs, as Python source."""
    edit(files, MODEL, lambda content: content.update(guards_code=[f"({CODE} or True)"]))


def constant_text(files: Files) -> None:
    replace(files, "out", f"' or {CODE} or '")


def buffer_path(files: Files) -> None:
    name = f'linear"), {CODE}, ("'
    replace(files, "steps", name)
    replace(files, "steps", name, WEIGHTS)


def add_call(files: Files, target: str, arguments: dict[str, Any], output: Any) -> None:
    """Append a node that calls ``target``."""
    inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    node = {"target": target, "inputs": inputs, "outputs": [output], "metadata": {}}
    edit(files, MODEL, lambda content: graph(content)["nodes"].append(node))


def add_tensor(files: Files, name: str, like: str = "steps") -> dict[str, Any]:
    """Declare a value called ``name``; returns it as the output of a node."""

    def change(content: Any) -> None:
        values = graph(content)["tensor_values"]
        values[name] = values[f"b_{like}"]

    edit(files, MODEL, change)
    return {"as_tensor": {"name": name}}


def value_name(files: Files) -> None:
    """The name of an input becomes a parameter of ``forward``, with a default."""
    replace(files, "word", f"word=({CODE})")


def file_operator(files: Files) -> None:
    output = add_tensor(files, "evil")
    arguments: dict[str, Any] = {"filename": {"as_string": MARK}, "shared": {"as_bool": True}}
    arguments["size"] = {"as_int": 4}
    add_call(files, "torch.ops.aten.from_file.default", arguments, output)


def old_format(files: Files) -> None:
    """As torch 2.7 wrote it; the members stand at the root."""
    program = files[MODEL]
    files.clear()
    files["serialized_exported_program.json"] = program
    files["serialized_state_dict.json"] = saved(Evil())
    files["serialized_constants.json"] = saved({})
    files["serialized_example_inputs.pt"] = saved(example())
    files["version"] = ".".join(map(str, SCHEMA_VERSION)).encode()


ATTACKS = {
    "expression": Attack(expression),
    "pickled inputs": Attack(lambda files: files.update({INPUTS: saved(Evil())})),
    "inputs in other case": Attack(shadowed_inputs),
    "pickled weight": Attack(pickled_weight),
    "pickled constant": Attack(pickled_constant),
    "opaque constant": Attack(opaque_constant),
    "old weights": Attack(lambda files: files.update({"data/weights/model.pt": saved(Evil())})),
    "old constants": Attack(lambda files: files.update({"data/constants/model.pt": saved(Evil())})),
    "old format": Attack(old_format),
    "enum in a tree": Attack(enum_key),
    "factory in a tree": Attack(default_factory),
    "value name": Attack(value_name),
    "constant text": Attack(constant_text, calls=True),
    "buffer path": Attack(buffer_path, calls=True),
    "file operator": Attack(file_operator, calls=True),
}
