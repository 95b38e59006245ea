"""The part of a model that makes rows of images, of those inputs that it reads.

Where it goes by the numbers in an input, such as the size of each image, the part is made for
images of one size, and for one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from awqc.artifacts.fixed_images import FixedImages
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError, spelled
from awqc.huggingface.generating import TOKENS, Generating
from awqc.huggingface.prompted_run import PromptedRun, example_samples
from awqc.huggingface.samples import Sizes
from awqc.kv_cache import IMAGE_ROWS, LATER_FEATURES
from awqc.program import Program
from awqc.recording.flat import flat_call
from awqc.recording.inner import result_inside
from awqc.recording.known_numbers import few_numbers, known_numbers, numbers_to_hold
from awqc.recording.merge import Merge
from awqc.recording.structures import Leaves, leaves


@dataclass(frozen=True)
class ImageRows:
    """What makes rows of images.

    Attributes:
        generating: the model.
        merge: what makes the rows.
        few: inputs of a few whole numbers for each image, such as its size.
        held: those of them whose values are those of one image; none: images may be of any size.
    """

    generating: Generating
    merge: Merge
    few: tuple[str, ...] = ()
    held: tuple[str, ...] = ()

    @classmethod
    def of(cls, generating: Generating, runs: Sequence[PromptedRun]) -> ImageRows:
        """That of ``runs``.

        Raises:
            CaptureError: the rows are others for another text.
        """
        examples = [run.inputs for run in runs]
        found = cls(generating, runs[0].merge)
        flat, read = flat_call(found.forward(), dict(examples[0]), found.outputs, examples)
        if TOKENS in read:
            raise CaptureError(
                f"{generating.folder.path}: the rows of images, which {found.merge.maker} makes, "
                f"are others for other {TOKENS}; the part of images must not read text"
            )
        example, count = {name: examples[0][name] for name in read}, len(runs[0].tokens)
        few, held = few_numbers(example, count), numbers_to_hold(flat, example, count)
        return cls(generating, found.merge, few, held)

    def of_one_size(self, generating: Generating, merge: Merge) -> ImageRows:
        """The same for images of one size, found as ``merge`` in what ``generating`` calls then.

        Raises:
            CaptureError: no input tells the size of an image.
        """
        if not self.few:
            raise CaptureError(
                f"{generating.folder.path}: what {merge.maker} makes is captured for as many "
                "images as the example data has and no others, and no input has a few whole "
                "numbers for each that could be held; the part of images must take any number"
            )
        return ImageRows(generating, merge, self.few, self.held or self.few)

    def forward(self) -> Callable[..., Leaves]:
        """What makes rows of what the processor made, by the model's own forward as it is now."""
        model, merge, held = self.generating.model, self.merge, self.held
        whole = model.forward

        def forward(**arguments: Tensor) -> Leaves:
            with known_numbers() if held else nullcontext():
                made = result_inside(model, merge.source, lambda: whole(**arguments), merge.method)
                result = leaves(made)
                later = merge.later_rows(result)
                found = {IMAGE_ROWS: merge.rows(result)}
                return found if later is None else {**found, LATER_FEATURES: later}

        return forward

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what is made."""
        return (IMAGE_ROWS, LATER_FEATURES) if self.merge.later.made else (IMAGE_ROWS,)

    def captured(self, name: str, examples: Sequence[Leaves]) -> tuple[Program, FixedImages | None]:
        """The part, with the size of images that it is for.

        Raises:
            CaptureError: it cannot be captured.
        """
        if self.held:
            samples = example_samples(self.generating, 1, Sizes())
            examples = [self.generating.inputs(samples)]
        flat, read = flat_call(self.forward(), dict(examples[0]), self.outputs, examples, self.held)
        program = capture_flat(
            self.generating.model, flat, examples, {path: path for path in read},
            {each: each for each in self.outputs}, name, lambda name: None, bool(self.held),
        )  # fmt: skip
        size = self.generating.processor.image_size
        if not self.held or size is None:
            return program, None
        numbers = {name: examples[0][name].numpy() for name in self.held}
        fixed = FixedImages(*size, numbers)
        program.tell(
            f"it is for images of {fixed.height} x {fixed.width} pixels (height x width), since "
            f"the model goes by the numbers in {', '.join(self.held)}; others are brought to this "
            f"size, which {spelled('image_size')} says, or else the first image of the data"
        )
        return program, fixed
