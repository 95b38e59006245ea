"""Declare an option: a field of a dataclass that knows its type, its values and its help."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from awqc.errors import UsageError, spelled, worded

F = TypeVar("F", bound=Callable[..., Any])

_KEY = "option"
_FORMS: dict[type, tuple[type, ...]] = {float: (float, int), Path: (str, Path)}
"""Types whose values may also come in another form."""


@dataclass(frozen=True)
class Declaration:
    """What is known of an option before anybody gives it.

    Attributes:
        name: its keyword in Python.
        default: its value where it is not given; None: there is none.
        help: what it does, in one or two sentences; ends with a full stop.
        group: which of `GROUPS` it belongs to.
        kind: type of a value, of an item where there are ``many``.
        choices: the values that there are; empty: any.
        words: other values, by what the command line calls them.
        least: the smallest value; ``above`` it where that is set.
        above: whether ``least`` itself is too small.
        most: the largest value.
        many: a tuple of values: the flag is repeated, or takes them with commas between.
        metavar: what stands for the value in help.
        flag: its name on the command line, where that is not the keyword's.
        check: raises UsageError for a value that is unusable for other reasons.
        read: makes the value of the texts of a repeated flag, in place of a tuple of them.
    """

    name: str
    default: Any
    help: str
    group: str
    kind: type = str
    choices: tuple[Any, ...] = ()
    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    least: float | None = None
    above: bool = False
    most: float | None = None
    many: Literal["", "repeated", "commas"] = ""
    metavar: str | None = None
    flag: str | None = None
    check: Callable[[Any], object] | None = None
    read: Callable[[tuple[str, ...]], Any] | None = None

    @property
    def flags(self) -> str:
        """``--name-of-it``."""
        return self.flag or "--" + self.name.replace("_", "-")

    def checked(self, value: Any) -> Any:
        """``value`` as the field holds it; text is read as the command line reads it.

        Raises:
            UsageError: it is of another type, not among the choices, or out of range.
        """
        if value is None and self.default is None:
            return None
        if self.read is not None:
            if not isinstance(value, Mapping):
                raise UsageError(f"{spelled(self.name)}: a dict by input name is needed")
            if self.check is not None:
                self.check(value)
            return value
        if not self.many:
            return self._item(value)
        if isinstance(value, str):
            value = filter(None, value.split(","))
        if not isinstance(value, Iterable):
            raise UsageError(f"{self._given(value)}: a list is needed")
        items = tuple(self._item(item) for item in value)
        if self.choices and not items:
            raise UsageError(f"{spelled(self.name)} is empty; choose from {self._listed()}")
        return tuple(one for one in self.choices if one in items) if self.choices else items

    def _item(self, value: Any) -> Any:
        named = {str(one): one for one in (*self.choices, *self.words.values())} | {**self.words}
        if str(value) in named:
            return named[str(value)]
        if self.choices:
            listed = ", ".join([self._listed(), *self.words])
            raise UsageError(f"{self._given(value)}: choose one of {listed}")
        if isinstance(value, str) and self.kind in (int, float):
            try:
                value = self.kind(value)
            except ValueError:
                raise UsageError(f"{self._given(value)}: {self._needed()}") from None
        wrong_flag = isinstance(value, bool) and self.kind in (int, float)
        if wrong_flag or not isinstance(value, _FORMS.get(self.kind, self.kind)):
            raise UsageError(f"{self._given(value)}: {self._needed()}")
        if self.kind is Path and "\0" in str(value):
            raise UsageError(f"{self._given(value)}: a path cannot hold a zero byte")
        self._check_range(value)
        if self.check is not None:
            self.check(value)
        return value

    def _check_range(self, value: Any) -> None:
        if self.most is not None and value > self.most:
            raise UsageError(f"{self._given(value)}: give {self.most:g} or less{self._others()}")
        if self.least is None:
            return
        # NaN is neither more nor less than anything, so it is refused too.
        if not (value > self.least if self.above else value >= self.least):
            bound = f"more than {self.least:g}" if self.above else f"{self.least:g} or more"
            raise UsageError(f"{self._given(value)}: give {bound}{self._others()}")

    def _given(self, value: Any) -> str:
        plain = isinstance(value, str | int | float)
        return spelled(self.name, value if plain else str(value))

    def _needed(self) -> str:
        kind = {int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}
        return f"{kind.get(self.kind, 'text')}{self._others()} is needed"

    def _others(self) -> str:
        return "".join(f", or {word}" for word in self.words)

    def _listed(self) -> str:
        return ", ".join(str(one) for one in self.choices)


def option(default: Any, help: str, *, group: str, **rest: Any) -> Any:
    """A field with this default; ``rest`` are more attributes of its `Declaration`."""
    known = {"help": help, "group": group, **rest}
    return dataclasses.field(default=default, metadata={_KEY: MappingProxyType(known)})


def declarations(cls: type[Any]) -> dict[str, Declaration]:
    """The options that a dataclass declares, by name, in its order."""
    return {
        field.name: Declaration(name=field.name, default=field.default, **field.metadata[_KEY])
        for field in dataclasses.fields(cls)
        if _KEY in field.metadata
    }


def takes(cls: type[Any], *without: str) -> Callable[[F], F]:
    """Show the options of ``cls``, but ``without`` some, in place of a function's ``**options``.

    Its signature gets a keyword for each, with its default, and its docstring what they do.
    """
    declared = {name: one for name, one in declarations(cls).items() if name not in without}

    def showing(function: F) -> F:
        signature = inspect.signature(function)
        named = list(signature.parameters.values())
        assert named[-1].kind is inspect.Parameter.VAR_KEYWORD
        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=cls.__annotations__[name],
            )
            for name, one in declared.items()
        ]
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*named[:-1], *keywords])
        listed = "".join(f"\n    {name}: {worded(one.help)}" for name, one in declared.items())
        shown.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:{listed}\n"
        return function

    return showing


def as_flag(flag: str, value: Any) -> str:
    """An option as the command line takes it.

    >>> as_flag("--input", ["x=float32[batch,64]"]), as_flag("--trust-pickle", True)
    ("--input 'x=float32[batch,64]'", '--trust-pickle')
    """
    if value is None or value is True:
        return flag
    items = value if isinstance(value, list) else [value]
    return " ".join(f"{flag} {shlex.quote(str(item))}" for item in items)
