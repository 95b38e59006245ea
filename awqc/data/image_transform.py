"""Images as a model of the user's own code takes them: through the transform that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.errors import CaptureError, UsageError
from awqc.huggingface.processor import require_pillow
from awqc.huggingface.samples import Maker, Sample
from awqc.program import IMAGE, Kinds, Program, Transform

EXAMPLES = 2


@dataclass(frozen=True)
class ImageTransform:
    """A transform in the place of a folder's processor.

    Attributes:
        transform: gets a PIL image in RGB.
        where: whose it is, for messages.
        names: of the model's inputs.
    """

    transform: Transform
    where: str
    names: Sequence[str] = ()
    reads: Kinds = field(default=(IMAGE,), init=False)
    made: None = field(default=None, init=False)
    rate: int = field(default=0, init=False)
    prompted: bool = field(default=False, init=False)
    image_size: None = field(default=None, init=False)

    @classmethod
    def of(cls, program: Program) -> ImageTransform:
        """That of a program, which must have one."""
        transform = program.task.transform
        assert transform is not None, program.name
        return cls(transform, program.name, [spec.name for spec in program.inputs])

    def maker(self) -> Maker:
        """What makes up images."""
        require_pillow()
        return Maker(self.reads)

    def inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What it makes of ``samples``, by the names of the model's inputs.

        Raises:
            CaptureError: it fails.
            UsageError: it makes something else than tensors, or not one for each input.
        """
        made = [_named(self._apply(each), self.names, self.where) for each in samples]
        return {name: torch.stack([each[name] for each in made]) for name in made[0]}

    def _apply(self, sample: Sample) -> Any:
        try:
            with torch.no_grad():
                return self.transform(sample.image)
        except Exception as error:
            raise CaptureError(
                f"{self.where}: the transform fails on {sample.source}: {type(error).__name__}: "
                f"{error}; it is called with a PIL image in RGB"
            ) from error


def image_example(transform: Transform, where: str) -> tuple[Any, ...] | Mapping[str, Any]:
    """Example inputs: what ``transform`` makes of two images that are made up.

    Raises:
        CaptureError: it fails.
        UsageError: it makes something else than tensors.
    """
    own = ImageTransform(transform, where)
    maker, random = own.maker(), np.random.default_rng(0)
    made = [own._apply(maker.sample(random)) for _ in range(EXAMPLES)]
    if isinstance(made[0], Mapping):
        named = [_named(each, list(made[0]), where) for each in made]
        return {name: torch.stack([each[name] for each in named]) for name in named[0]}
    return (torch.stack([_named(each, ["input"], where)["input"] for each in made]),)


def _named(made: Any, names: Sequence[str], where: str) -> dict[str, Tensor]:
    """What a transform made of one image, by name."""
    if not isinstance(made, Mapping):
        if len(names) != 1:
            raise UsageError(
                f"{where}: the transform returns a {type(made).__name__}, but the model has the "
                f"inputs {', '.join(names)}; return a dict with a tensor for each"
            )
        made = {names[0]: made}
    found = {str(name): _tensor(value) for name, value in made.items()}
    wrong = next((name for name, value in found.items() if value is None), None)
    if wrong is not None:
        raise UsageError(
            f"{where}: the transform returns a {type(made[wrong]).__name__} for {wrong}; a tensor "
            "is needed, without a batch axis (torchvision's ToTensor makes one of an image)"
        )
    return {name: value for name, value in found.items() if value is not None}


def _tensor(value: Any) -> Tensor | None:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else (
        value.detach() if isinstance(value, Tensor) else None
    )  # fmt: skip
