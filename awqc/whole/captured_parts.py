"""The parts of a run, captured one after another; what cannot be a graph is opened.

::

    speak(text):  decoder.prenet(frames)          draws random numbers
                  -> prenet.layers.0(frames)      these are parts, and the draw lies between them
                  -> prenet.layers.1(…)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from awqc.errors import CaptureError, UsageError, spelled
from awqc.options import Options
from awqc.recording.entries import EntryPoint
from awqc.recording.forms import calls_by_form
from awqc.recording.outermost import OutsideCall
from awqc.whole.recorded_parts import (
    Naming,
    NoGraphError,
    RecordedPart,
    capture_part,
    usual_names,
)

MOST_PARTS = 96
"""Graphs that a model becomes at most; more would be slow, and no model of a few parts."""


@dataclass
class CapturedParts:
    """What of a model is captured, and what was opened.

    Attributes:
        modules: of the model, by path.
        options: `Options.part` names the parts; nothing is opened then.
        naming: names parts, their inputs and their outputs.
        opened: entries in whose place are what they call, each with the reason.
    """

    modules: Mapping[str, nn.Module]
    options: Options
    naming: Naming = usual_names
    opened: dict[EntryPoint, CaptureError] = field(default_factory=dict)
    _known: dict[EntryPoint, tuple[RecordedPart, ...]] = field(default_factory=dict)

    def take(
        self, entries: Sequence[EntryPoint], calls: Sequence[OutsideCall]
    ) -> tuple[RecordedPart, ...] | None:
        """The parts that ``entries`` are, in order; None where some of them had to be opened.

        ``calls`` are all calls of ``entries``.

        Raises:
            CaptureError: one cannot be a graph, nor can what it calls.
        """
        self._check_opened(entries)
        found: list[RecordedPart] = []
        before = len(self.opened)
        wanted: list[str | None] = list(self.options.part or ()) or [None] * len(entries)
        for asked, entry in zip(wanted, entries, strict=True):
            own = [call for call in calls if (call.path, call.method) == entry]
            try:
                found += self._parts(entry, asked, own)
            except NoGraphError as error:
                if self.options.part:
                    raise
                self.opened[entry] = error
        if len(self.opened) > before:
            return None
        if self.opened and len(found) > MOST_PARTS:
            entry, reason = next(iter(self.opened.items()))
            raise CaptureError(
                f"{reason.text}. What {entry or 'the model'} and others call would be {len(found)} "
                f"graphs; name parts of your choice ({spelled('part')})"
            ) from reason
        return tuple(found)

    def _check_opened(self, entries: Sequence[EntryPoint]) -> None:
        """Refuse what was opened and has nothing inside that could be a part."""
        for opened, error in self.opened.items():
            inside = f"{opened.path}." if opened.path else ""
            paths = [entry.path for entry in entries if entry != opened]
            if not any(path == opened.path or path.startswith(inside) for path in paths):
                raise error

    def _parts(
        self, entry: EntryPoint, asked: str | None, own: Sequence[OutsideCall]
    ) -> Iterator[RecordedPart]:
        module = self.modules[entry.path]
        if not any(value.ndim > 1 for value in module.parameters()):
            if self.options.part:
                raise UsageError(f"{spelled('part')}: {entry} has no weights to quantize")
            return
        if len(own) < 2:
            name = asked or str(entry) or "model"
            raise CaptureError(
                f"{name}: {entry or 'the model'} is called {len(own)} times while run runs; two "
                "calls are needed at least, of which one is held back: let run take more samples, "
                "and name no part inside of another one"
            )
        forms = calls_by_form(asked or self.naming(entry, own[0].before, own[0].result).part, own)
        if entry not in self._known:
            self._known[entry] = tuple(self._captured(entry, module, forms))
        for part in self._known[entry]:
            yield replace(part, calls=tuple(forms[part.name]))

    def _captured(
        self, entry: EntryPoint, module: nn.Module, forms: Mapping[str, Sequence[OutsideCall]]
    ) -> Iterator[RecordedPart]:
        for part, some in forms.items():
            names = replace(self.naming(entry, some[0].before, some[0].result), part=part)
            try:
                yield capture_part(names, entry, module, some)
            except CaptureError as error:
                text = (
                    f"{error.text}. To leave {entry} as it is, name the other parts "
                    f"({spelled('part')})"
                )
                raise type(error)(text) from error
