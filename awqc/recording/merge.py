"""Rows that one module makes put in place of rows that another one makes, as images into text.

::

    tokens     5   9   9   9   7               9: the token that stands for rows of images
    embedding  e5  e9  e9  e9  e7
    source         s0  s1  s2                  what the image's encoder makes
    merged     e5  s0  s1  s2  e7              what the decoder is given
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.entries import EntryPoint, own_methods
from awqc.recording.inner import InnerCall, record_inner
from awqc.recording.instead import FORWARD
from awqc.recording.later import NONE, Later
from awqc.recording.structures import Leaves, leaves

CLOSE = 1e-3
"""How far rows may be from rows that they are, relative to their norm."""


@dataclass(frozen=True)
class Merge:
    """Which modules make what is merged, and which one takes it.

    Attributes:
        embedding: path of the module that makes a row of each token.
        source: path of the module that makes the rows that are put in.
        made: path in that module's result.
        decoder: path of the first module that takes the merged rows.
        argument: name of its argument.
        token: the token in whose places the rows are put, one after another.
        factor: the rows are put in times this.
        method: of the module ``source``, that makes the rows.
        replaced: whether other tokens have, beside images, a row each that is not the embedding's.
        later: rows that the decoder adds behind layers.
    """

    embedding: str
    source: str
    made: str
    decoder: str
    argument: str
    token: int
    factor: float
    method: str = FORWARD
    replaced: bool = False
    later: Later = NONE

    @property
    def maker(self) -> EntryPoint:
        """What makes the rows."""
        return EntryPoint(self.source, self.method)

    def rows(self, result: Leaves) -> Tensor:
        """What is put in, of the tensors that `maker` returned: a row for each place."""
        made = dict(_made(result))[self.made]
        return made if self.factor == 1 else made * self.factor

    def later_rows(self, result: Leaves) -> Tensor | None:
        """Of the same tensors what is added behind layers, if anything is."""
        return self.later.rows(dict(_made(result))) if self.later.made else None

    @classmethod
    def of(cls, model: nn.Module, run: Callable[[], object], tokens: Tensor, where: str) -> Merge:
        """The merge in ``run``, which runs ``model`` on ``tokens``, ``(batch, count)``.

        The run ends where merged rows are taken.

        Raises:
            CaptureError: there is none, or it is not one as described.
        """

        def until(ended: Sequence[InnerCall], call: InnerCall) -> bool:
            taken = next(_mixed(ended, call, tokens), None)
            return taken is not None and _reads(model.get_submodule(call.path), call, taken[1])

        calls = record_inner(model, run, until=until)
        found = next(_mixed(calls, calls[-1], tokens), None) if calls else None
        if found is None:
            raise CaptureError(
                f"{where}: no module is given rows of tokens with other rows among them: what is "
                "made of images does not reach the text, or not by taking the place of tokens"
            )
        decoder = calls[-1]
        embedding, argument, put_in = found
        merged = decoder.given[argument]
        place = f"{where}: of the argument {argument} of {decoder.path}"
        ids = tokens[put_in].unique()
        varying = [each for each in ids if len(ids) == 1 or _varies(merged[tokens == each])]
        if len(varying) != 1 or bool(torch.isin(tokens[~put_in], ids).any()):
            raise CaptureError(
                f"{place} {int(put_in.sum())} rows are none of tokens, at the tokens "
                f"{', '.join(map(str, ids.tolist()[:6]))}; one token is needed that stands for "
                "such rows and nothing else, and each other one has to have one row"
            )
        token = int(varying[0])
        rows = merged[tokens == token]
        for call in _and_methods(model, run, calls):
            for made, value in _made(call.result):
                factor = _factor(rows, value)
                if factor is not None:
                    return cls(
                        embedding.path, call.path, made, decoder.path, argument,
                        token, factor, call.method, len(ids) > 1,
                        Later.of(decoder.given, dict(_made(call.result)), tokens == token),
                    )  # fmt: skip
        raise CaptureError(
            f"{place} {len(rows)} rows stand at the token {token}, which no module and no "
            "method of one makes as they are, in this order: something is put between them, or "
            "they are changed by code on the way"
        )


def _and_methods(
    model: nn.Module, run: Callable[[], object], calls: Sequence[InnerCall]
) -> Iterator[InnerCall]:
    """The calls of modules that ``run`` made, the last one to end first; then those of methods.

    Methods are those of the modules around the last call. What is called several times makes rows
    of an image and others.
    """
    count = Counter(call.path for call in calls)
    once = (call for call in calls if count[call.path] == 1)
    yield from sorted(once, key=lambda call: -call.left)
    taking = calls[-1].path
    again = record_inner(
        model, run, (taking,), lambda _, call: call.path == taking, own_methods(model, taking)
    )
    yield from sorted(again[:-1], key=lambda call: -call.left)


def _made(result: Leaves) -> Iterator[tuple[str, Tensor]]:
    """The tensors in ``result``; then those of each list in it, one behind another, by its path.

    As of rows of several images, which may be of different numbers.
    """
    yield from result.items()
    lists: dict[str, list[Tensor]] = {}
    for path, value in result.items():
        above, _, last = path.rpartition(".")
        if last.isdecimal() and value.ndim:
            lists.setdefault(above, []).append(value.reshape(-1, value.shape[-1]))
    for path, values in lists.items():
        if len({value.shape[-1] for value in values}) == 1:
            yield path, torch.cat(values)


def _mixed(
    calls: Sequence[InnerCall], taking: InnerCall, tokens: Tensor
) -> Iterator[tuple[InnerCall, str, Tensor]]:
    """Embedding, the argument of ``taking``, and the places of rows in it that are no token's."""
    for argument, merged in taking.given.items():
        if not merged.is_floating_point() or merged.shape[:-1] != tokens.shape:
            continue
        for embedding in calls:
            value = embedding.result.get("")
            if value is None or value.shape != merged.shape:
                continue
            read = next(iter(embedding.given.values()), None)
            if read is None or read.shape != tokens.shape or read.is_floating_point():
                continue
            put_in = (value != merged).any(dim=-1)
            same = ~put_in
            if put_in.any() and same.any() and torch.equal(read[same], tokens[same]):
                yield embedding, argument, put_in


def _reads(module: nn.Module, call: InnerCall, argument: str) -> bool:
    """Whether ``module`` looks at the values of ``argument``, and not at its type alone.

    As one that makes tables of positions does not. One that has others inside does something.
    """
    if next(module.children(), None) is not None:
        return True
    try:
        usual, other = (
            leaves(module.forward(**{**call.given, argument: call.given[argument] + more}))
            for more in (0, 1)
        )
    except Exception:  # noqa: BLE001 - it is given more than tensors
        return True
    return any(not torch.equal(value, other[path]) for path, value in usual.items())


def _varies(rows: Tensor) -> bool:
    """Whether they are not all the same."""
    return bool((rows != rows[:1]).any())


def _factor(rows: Tensor, value: Tensor) -> float | None:
    """The number by which ``value`` becomes ``rows``, or None where there is none."""
    if not value.is_floating_point() or value.numel() != rows.numel() or not value.ndim:
        return None
    if value.shape[-1] != rows.shape[-1]:
        return None
    flat = value.reshape(rows.shape).double()
    wanted = rows.double()
    factor = float((flat * wanted).sum() / flat.square().sum().clamp_min(1e-30))
    close = float((flat * factor - wanted).norm()) <= CLOSE * float(wanted.norm())
    if not close:
        return None
    return 1.0 if abs(factor - 1) < CLOSE else factor
