"""A run of `generate`, taken apart: the call of an encoder, and a decoder's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from awqc.errors import CaptureError
from awqc.recording.loop import Loop, longest_loop, sources
from awqc.recording.outermost import OutsideCall
from awqc.recording.spare import without
from awqc.recording.structures import Leaves

SpareOf = Callable[[Loop], tuple[str, ...]]
"""Tells the arguments of a loop that its module needs not be given."""


@dataclass(frozen=True)
class Recorded:
    """A run of `generate`.

    Attributes:
        encoder: the call of the encoder; where others stand before it, as a call of the whole
            that ends with it.
        loop: the calls of the decoder.
        tokens: all that the decoder read, ``(batch, tokens)``.
        wired: what of ``loop.given`` the encoder made, by its path in the encoder's result.
        calls: those of the decoder.
        alone: whether nothing but the encoder is called before the decoder.
        spare: arguments of the decoder that it needs not be given, and that are left out.
        names: what results of the encoder are called, by path, where not by that.
    """

    encoder: OutsideCall
    loop: Loop
    tokens: Tensor
    wired: Mapping[str, str]
    calls: tuple[OutsideCall, ...]
    alone: bool = True
    spare: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, calls: Sequence[OutsideCall], where: str, spare_of: SpareOf = lambda loop: ()
    ) -> Recorded:
        """The run that made ``calls``; of its loop ``spare_of`` tells what is left out.

        Raises:
            CaptureError: it is not the run of one encoder and one decoder.
        """
        paths = list(dict.fromkeys(call.path for call in calls))
        looped = [path for path in paths if sum(call.path == path for call in calls) > 1]
        what = (
            f"{where}: generate calls {_listed(paths)} from outside, of which {_listed(looped)} in "
            "a loop; one encoder and one decoder are needed"
        )
        if len(looped) != 1 or len(paths) < 2:
            raise CaptureError(what)
        own = longest_loop([call for call in calls if call.path == looped[0]])
        begins = own[0]
        loop = Loop.of(own)
        spare = spare_of(loop) if len(loop.fresh) > 1 else ()
        if spare:
            own = without(own, spare)
            loop = Loop.of(own)
        made = sources(calls, begins, loop.given)
        if not made:
            raise CaptureError(
                f"{where}: nothing that {_listed(paths[:1])} makes goes into the loop of "
                f"{_listed(looped)}"
            )
        if len({call.path for call, _ in made.values()}) > 1:
            raise CaptureError(what)
        fresh = loop.fresh[0] if len(loop.fresh) == 1 else ""
        if not fresh or loop.first.before[fresh].is_floating_point():
            raise CaptureError(
                f"{where}: at each call the decoder takes {_listed(loop.fresh)}; tokens alone are "
                "needed"
            )
        tokens = torch.cat([call.before[fresh] for call in own], dim=1)
        encoder = next(call for call, _ in made.values())
        wired = {path: result for path, (_, result) in made.items()}
        return cls(encoder, loop, tokens, wired, tuple(own), len(paths) == 2, spare)

    def through(self, inputs: Leaves) -> Recorded:
        """The same, with the encoder as what the whole makes of ``inputs`` on the way.

        As where rows of images and of tokens are made and put together first.
        """
        given = dict(inputs)
        call = replace(self.encoder, arguments=given, before=given, after=given)
        return replace(self, encoder=call, alone=False)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(path or "the model itself" for path in paths) or "nothing"
