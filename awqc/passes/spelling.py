"""Passes as text: the one line that a recipe holds, a report shows and ``--pipeline`` takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from awqc.errors import UsageError, spelled
from awqc.passes.base import Pass


@dataclass(frozen=True)
class Option:
    """An option of a pass.

    Attributes:
        name: with underscores.
        default: its value where none is given.
        local: whether it holds for this machine alone, as a path does, and is not printed.
        holder: the field of the pass whose value has it; empty: the pass itself.
    """

    name: str
    default: Any
    local: bool = False
    holder: str = ""


def options_of(cls: type[Any]) -> dict[str, Option]:
    """The options of a pass as they are written, with dashes.

    >>> from awqc.passes.quantize_weights import QuantizeWeights
    >>> options_of(QuantizeWeights)["group-size"].holder
    'spec'
    """
    found = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            inner = dataclasses.fields(field.default)
            found += [Option(each.name, each.default, holder=field.name) for each in inner]
        else:
            local = bool(field.metadata.get("local"))
            found.append(Option(field.name, field.default, local))
    return {option.name.replace("_", "-"): option for option in found}


def build(cls: type[Any], options: Mapping[str, Any]) -> Pass:
    """The pass of class ``cls`` with ``options`` by name, with underscores.

    Raises:
        UsageError: a value does not fit.
    """
    known = {option.name: option for option in options_of(cls).values()}
    values: dict[str, Any] = {}
    held: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        holder = known[name].holder
        (held.setdefault(holder, {}) if holder else values)[name] = value
    for field in dataclasses.fields(cls):
        if field.name in held:
            default: Any = field.default
            values[field.name] = dataclasses.replace(default, **held[field.name])
    made: Pass = cls(**values)
    return made


def spell(step: Pass) -> str:
    """A pass with the options that differ from their defaults, but for local ones."""
    shown = []
    for name, option in options_of(type(step)).items():
        owner = getattr(step, option.holder) if option.holder else step
        value = getattr(owner, option.name)
        if value != option.default and not option.local:
            shown.append(f"{name}={_spell_value(value)}")
    return step.name + (f"{{{','.join(shown)}}}" if shown else "")


def spell_all(steps: Sequence[Pass]) -> str:
    """Passes in order, as one line."""
    return ",".join(map(spell, steps))


def read(
    text: str, passes: Mapping[str, type[Any]], defaults: Mapping[str, Mapping[str, Any]]
) -> list[Pass]:
    """The passes that ``text`` names, of the table ``passes``.

    ``defaults`` are options by pass, with underscores; what ``text`` says wins.

    Raises:
        UsageError: a pass or option that does not exist, or a value that does not fit.
    """
    steps = []
    for name, options in _split(text):
        if name not in passes:
            raise UsageError(f"no pass is called {name!r}; passes: {', '.join(passes)}")
        given = dict(defaults.get(name.replace("-", "_"), {}))
        steps.append(build(passes[name], given | _read_options(passes[name], options)))
    return steps


def _split(text: str) -> list[tuple[str, str]]:
    """Names and option texts of a pipeline's text."""
    found = []
    position = 0
    pattern = re.compile(r"\s*([a-z0-9-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise UsageError(
                f"cannot read the pipeline at {text[position : position + 20]!r}; "
                "write pass-a,pass-b{option=1,other-option=x}"
            )
        found.append((match[1], match[2] or ""))
        position = match.end()
    if not found:
        raise UsageError(f"the pipeline is empty; leave {spelled('pipeline')} out for the default")
    return found


def _read_options(cls: type[Any], text: str) -> dict[str, Any]:
    options = options_of(cls)
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = item.partition("=")
        if key not in options:
            raise UsageError(
                f"{cls.name} has no option {key!r}; options: {', '.join(options) or 'none'}"
            )
        values[options[key].name] = _convert(cls.name, key, value, options[key].default)
    return values


def _convert(owner: str, key: str, value: str, default: Any) -> Any:
    """``value`` in the type of the option's default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "": True}[value.lower()]
        if isinstance(default, tuple):
            return tuple(unquote(item) for item in value.split("|") if item)
        if isinstance(default, int):
            return int(value)
        if isinstance(default, float):
            return float(value)
        return int(value) if re.fullmatch(r"-?\d+", value) else unquote(value)
    except (KeyError, ValueError):
        raise UsageError(
            f"{owner}{{{key}={value}}}: a {type(default).__name__} is needed"
        ) from None


def _spell_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(map(_escape, value))
    if isinstance(value, str):
        return _escape(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escape(text: str) -> str:
    """``text`` with what the pipeline's own grammar uses written as ``%2C``."""
    return re.sub(r"[%,{}|\s]", lambda match: f"%{ord(match[0]):02X}", text)
