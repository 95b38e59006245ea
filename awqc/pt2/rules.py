"""What each piece of text in an archive's records may be, by record and field."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from awqc.pt2.expressions import read_expression
from awqc.pt2.failures import NotAllowedError
from awqc.pt2.members import NUMBER
from awqc.pt2.operators import check_operator
from awqc.pt2.texts import Rule, check_text, is_message, is_name, is_path, is_symbol, is_words
from awqc.pt2.trees import read_tree

Reader = Callable[[str], Any]
"""Takes text of the archive; returns what torch is given, or raises NotAllowedError."""

_PAYLOAD = re.compile(rf"(?:weight|tensor)_{NUMBER}")
_DEVICES = ("cpu", "cuda", "meta", "mps", "xpu")
_DIALECTS = ("", "ATEN", "TRAINING")


def _by(rule: Rule, what: str, *, empty: bool = False) -> Reader:
    allowed: Rule = (lambda text: not text or rule(text)) if empty else rule
    return partial(check_text, rule=allowed, where=what)


_value = _by(is_name, "the name of a value")
_stored = _by(is_path, "the name of a parameter or buffer")
_symbol = _by(is_symbol, "the symbol of a size")
_constant = _by(is_words, "a constant input")
_note = _by(is_words, "a name")

TEXTS: dict[str, Reader] = {
    "TensorArgument.name": _value,
    "TokenArgument.name": _value,
    "SymIntArgument.as_name": _value,
    "SymFloatArgument.as_name": _value,
    "SymBoolArgument.as_name": _value,
    "Node.name": _value,
    "GraphArgument.name": _value,
    "InputToConstantInputSpec.name": _value,
    "GradientToUserInputSpec.user_input_name": _value,
    "UserInputMutationSpec.user_input_name": _value,
    "ModuleCallSignature.forward_arg_names": _value,
    "NamedArgument.name": _by(str.isidentifier, "the name of an argument", empty=True),
    "InputToParameterSpec.parameter_name": _stored,
    "InputToBufferSpec.buffer_name": _stored,
    "InputToTensorConstantSpec.tensor_constant_name": _stored,
    "BufferMutationSpec.buffer_name": _stored,
    "ParameterMutationSpec.parameter_name": _stored,
    "GradientToParameterSpec.parameter_name": _stored,
    "ModuleCallEntry.fqn": _by(is_path, "the path of a module", empty=True),
    "Node.target": check_operator,
    "Argument.as_operator": check_operator,
    "Argument.as_string": _by(is_message, "an argument"),
    "Argument.as_strings": _by(is_message, "an argument"),
    "ConstantValue.as_string": _constant,
    "SymExpr.expr_str": read_expression,
    "Device.type": _by(_DEVICES.__contains__, "a device"),
    "ModuleCallSignature.in_spec": partial(read_tree, arguments=True),
    "ModuleCallSignature.out_spec": partial(read_tree, arguments=False),
    "ExportedProgram.verifiers": _by(_DIALECTS.__contains__, "a dialect"),
    "ExportedProgram.torch_version": _note,
    "PayloadMeta.path_name": _by(_PAYLOAD.fullmatch, "the name of stored values"),  # type: ignore[arg-type]  # a match stands for its text
    "Node.metadata": _by(is_message, "a note"),
}

KEYS: dict[str, Reader] = {
    "Graph.tensor_values": _value,
    "Graph.sym_int_values": _value,
    "Graph.sym_bool_values": _value,
    "Graph.sym_float_values": _value,
    "Graph.custom_obj_values": _value,
    "Argument.as_string_to_argument": _note,
    "ExportedProgram.opset_version": _note,
    "ExportedProgram.range_constraints": _symbol,
    "PayloadConfig.config": _stored,
    "Node.metadata": _note,
}

_KEPT_NOTES = ("nn_module_stack",)

REPLACED: dict[str, Callable[[Any], Any]] = {
    "ExportedProgram.guards_code": lambda _: [],
    "GraphModule.metadata": lambda _: {},
    "GraphModule.treespec_namedtuple_fields": lambda _: {},
    "Node.metadata": lambda notes: {k: notes[k] for k in _KEPT_NOTES if k in notes},
}
"""Fields of which something is left behind: Python source of checks, names of classes, notes."""


def check_record(record: Any) -> None:
    """What the rules of single fields cannot tell.

    Raises:
        NotAllowedError: a constant input's text could end a quoted one, or values are pickled.
    """
    if type(record).__name__ == "Graph":
        for value in record.inputs:
            if value.type == "as_string":
                _constant(value.as_string)
    if type(record).__name__ == "PayloadMeta" and record.use_pickle:
        raise NotAllowedError(f"a pickled object ({record.path_name})")


def unruled(place: str) -> NotAllowedError:
    """The error for text at ``place``, of which no rule says what it may be."""
    if place.startswith("CustomObjArgument."):
        return NotAllowedError("an object of a class of its own")
    return NotAllowedError(f"text that awqc does not know ({place})")
