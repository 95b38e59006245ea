"""`Bundle`: the parts of a model, in the order in which they run, and the wires between them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.program import Batch, Program

Runner = Callable[[Batch], Mapping[str, Tensor]]
"""Outputs of one part by name, for its inputs by name."""


Trace = tuple[dict[str, Batch], dict[str, Tensor]]
"""What each part read, by part, and the outputs of the whole."""


@dataclass(frozen=True)
class Wire:
    """An output of one part that a later part takes as an input.

    Attributes:
        source: part and output, as ``encoder.hidden``.
        target: part and input, as ``decoder.states``.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Bundle:
    """Programs that are one model together.

        tokens -> encoder -> hidden ─wire─> decoder -> logits
                              prompt ─────────┘

    A name of the whole is that of a part and, after a dot, of its input or output. What no wire
    brings is an input of the whole; every output of a part is one of the whole.

    Attributes:
        parts: by name, in the order in which they run.
        wiring: each goes from a part to one that runs later.

    Raises:
        UsageError: a wire names what is not there, runs backward, or brings what another does.
    """

    parts: Mapping[str, Program]
    wiring: tuple[Wire, ...] = ()

    def __post_init__(self) -> None:
        order = {name: place for place, name in enumerate(self.parts)}
        if not order:
            raise UsageError("a bundle has no part; give at least one program")
        if dotted := [name for name in order if "." in name]:
            raise UsageError(f"the part {dotted[0]!r} has a dot in its name; wires need it")
        sources, targets = self._ends()
        brought: set[str] = set()
        for wire in self.wiring:
            ends = (("output", wire.source, sources), ("input", wire.target, targets))
            for what, end, known in ends:
                if end not in known:
                    raise UsageError(
                        f"the wire {wire.source} -> {wire.target}: no part has the {what} {end}; "
                        f"there are {', '.join(sorted(known))}"
                    )
            if order[sources[wire.source]] >= order[targets[wire.target]]:
                raise UsageError(
                    f"the wire {wire.source} -> {wire.target} runs backward: "
                    f"{sources[wire.source]} runs after {targets[wire.target]} has begun"
                )
            if wire.target in brought:
                raise UsageError(f"two wires bring {wire.target}; one is needed")
            brought.add(wire.target)

    @classmethod
    def of(cls, program: Program) -> Bundle:
        """A model of one graph."""
        return cls({program.name.replace(".", "_"): program})

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a caller gives: the inputs that no wire brings."""
        wired = {wire.target for wire in self.wiring}
        return tuple(name for name in self._ends()[1] if name not in wired)

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs of all parts."""
        return tuple(self._ends()[0])

    def run(self, batch: Batch, runners: Mapping[str, Runner] | None = None) -> dict[str, Tensor]:
        """Outputs of the whole for one batch of `inputs`.

        ``runners`` run the parts, such as compiled ones; None: the programs themselves.
        """
        return self.trace(batch, runners)[1]

    def trace(self, batch: Batch, runners: Mapping[str, Runner] | None = None) -> Trace:
        """What each part reads, and what the whole makes, for one batch of `inputs`.

        Raises:
            UsageError: ``batch`` lacks an input.
        """
        if missing := [name for name in self.inputs if name not in batch]:
            raise UsageError(f"the batch has no {missing[0]}; give {', '.join(self.inputs)}")
        values = dict(batch)
        read: dict[str, Batch] = {}
        made: dict[str, Tensor] = {}
        for name, program in self.parts.items():
            read[name] = {spec.name: values[f"{name}.{spec.name}"] for spec in program.inputs}
            run = _in_torch(program) if runners is None else runners[name]
            for output, value in run(read[name]).items():
                made[f"{name}.{output}"] = value
            for wire in self.wiring:
                if wire.source in made:
                    values[wire.target] = made[wire.source]
        return read, made

    def shared(self) -> dict[str, dict[str, str]]:
        """Matrices that several parts hold, by part and name, each with another that is the same.

        Equal content counts, wherever it lies: a capture may have copied it.
        """
        first: dict[tuple[object, ...], str] = {}
        found: dict[str, dict[str, str]] = {name: {} for name in self.parts}
        for part, program in self.parts.items():
            for name, value in program.parameters().items():
                if value.ndim < 2:
                    continue
                other = first.setdefault(_content(value), f"{part}.{name}")
                owner, _, known = other.partition(".")
                if owner != part:
                    found[part][name] = other
                    found[owner].setdefault(known, f"{part}.{name}")
        return found

    def _ends(self) -> tuple[dict[str, str], dict[str, str]]:
        """The part of each output and of each input."""
        parts = self.parts.items()
        outputs = {f"{name}.{each}": name for name, part in parts for each in part.outputs}
        inputs = {f"{name}.{spec.name}": name for name, part in parts for spec in part.inputs}
        return outputs, inputs


def _in_torch(program: Program) -> Runner:
    return lambda batch: dict(zip(program.outputs, program.run(batch), strict=True))


def _content(value: Tensor) -> tuple[object, ...]:
    """Equal for tensors of equal content."""
    held = value.detach().contiguous().view(torch.uint8).numpy().tobytes()
    return tuple(value.shape), value.dtype, hashlib.sha256(held).digest()
