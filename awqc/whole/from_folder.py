"""A folder of a model that generates: recorded, compiled by parts, run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.artifacts.fixed_images import HEIGHT, WIDTH
from awqc.artifacts.scratch import ScratchFolder
from awqc.data.load import DataSource
from awqc.data.media import Chosen, choose_samples
from awqc.errors import BY_A_RUN, CaptureError, Note, UsageError, VerificationError, spelled
from awqc.export.layouts import FolderLayout
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import NEW_TOKENS, Followed, Generating
from awqc.huggingface.task_table import FolderTask
from awqc.machine.products import quick_products
from awqc.machine.progress import stage, track
from awqc.options import Options
from awqc.options.values import parse_image_size
from awqc.runtimes.encoder_decoder import find_parts
from awqc.verify.words import word_error_rate
from awqc.whole.compiling import (
    CompiledBundle,
    check_exclude,
    check_whole,
    compile_traced,
    held_back,
)
from awqc.whole.folder_files import IMAGES, write_layout, write_whole_report
from awqc.whole.ways import Way, capture_generating

NUM_SAMPLES = 16
"""Samples that are run where no number is asked for: each is generated for, token by token."""
OF_THE_WHOLE = (
    "task",
    "trust_remote_code",
    "adapter",
    "num_samples",
    "seq_len",
    "image_size",
    "inputs",
    "dynamic",
    "layout",
)
"""Options that say how the model and its data are read."""
EXAMPLES_KEPT = 5
"""Pairs of texts that the report shows."""


def compile_generating(
    folder: HFFolder,
    task: FolderTask,
    source: DataSource,
    options: Options,
    given: Mapping[str, Any],
    notify: Callable[[Note], object],
    hold: ExitStack | None = None,
) -> CompiledBundle:
    """Compile the model in ``folder`` part by part, and let the whole generate.

    The model generates for each sample; what reaches its parts then is what they are calibrated
    on. The exported parts generate for the samples held back, and the report says how far their
    texts are from the float model's.

    ``given`` are ``options`` as they were given, which the parts are compiled with. What
    is finished of each part is kept until ``hold`` ends well.

    Raises:
        UsageError: an option or the data is not for such a model.
        CaptureError: the model cannot be loaded, recorded or captured.
        CalibrationError: the data does not fit.
        VerificationError: a part or the whole is not the model that was asked for.
    """
    layout = FolderLayout(options.layout)
    layout.check(folder.path, options.formats)
    opened = open_generating(folder, task, options, notify, source)
    generating, way, parts, most = opened.generating, opened.way, opened.parts, opened.most
    layout.check_parts(parts.bundle.parts)
    samples = read_samples(generating, source, options, notify)
    followed = list(follow_all(partial(parts.follow, most=most), samples))
    own = {name: value for name, value in given.items() if name not in OF_THE_WHOLE}
    traces = [each.trace for each in followed]
    result = compile_traced(parts.bundle, traces, own, notify, hold)
    files = ScratchFolder()
    folders = {name: part.folder for name, part in result.parts.items()}
    write_layout(folders, folder, files.path, partial(way.write, parts))
    result.report = {"model": generating.name, "task": generating.task.name, **result.report}
    if (size := generating.processor.image_size) is not None:
        result.report[IMAGES] = {HEIGHT: size[0], WIDTH: size[1]}
    if any(name in options.formats for name in ("onnx", "ort")):
        first = len(samples) - result.held_out
        with stage("generate with what was compiled …"):
            result.report["generated"] = generated(
                opened, files.path, samples[first:], followed[first:]
            )
    write_whole_report(result.report, files.path)
    return replace(result, files=files, layout=layout)


def follow_all(
    follow: Callable[[dict[str, Tensor]], Followed], samples: Sequence[dict[str, Tensor]]
) -> Iterator[Followed]:
    """``follow`` each sample; those that the whole is not judged by in `quick_products`."""
    calibrating = len(samples) - held_back(len(samples))
    for number, each in enumerate(track(samples, "generate")):
        with quick_products() if number < calibrating else nullcontext():
            found = follow(each)
        yield found


@dataclass(frozen=True)
class OpenedParts:
    """A model that generates, its graphs captured.

    Attributes:
        generating: the model.
        way: how it becomes graphs.
        parts: these, with a ``bundle``, which ``follow`` a sample.
        most: new tokens that are generated for a sample at most.
    """

    generating: Generating
    way: Way
    parts: Any
    most: int


def open_generating(
    folder: HFFolder,
    task: FolderTask,
    options: Options,
    notify: Callable[[Note], object],
    source: DataSource,
    image_size: tuple[int, int] | None = None,
) -> OpenedParts:
    """The model in ``folder``, captured part by part.

    One that is made for images of one size takes them in ``image_size``, height and width; None:
    in what ``options`` say, or else in that of the first image of ``source``.

    Raises:
        UsageError: an option is not for such a model.
        CaptureError: the model cannot be loaded, recorded or captured.
    """
    check_whole(options)
    with stage("capture …"):
        generating = Generating.load(folder, task)
        first = partial(_first_size, generating, source, options)
        if image_size is None and options.image_size is not None:
            image_size = parse_image_size(options.image_size)
        generating = replace(generating, image_size=(lambda: image_size) if image_size else first)
        try:
            way, parts = capture_generating(generating)
        except CaptureError as error:
            if error.__cause__ is not None:  # what a library said, which is wrong in itself
                raise
            raise CaptureError(f"{error.text}. {BY_A_RUN}") from error
    captured: Generating = parts.generating
    if options.image_size is not None and captured.processor.image_size is None:
        raise UsageError(
            f"{spelled('image_size', options.image_size)} is for models whose graph is for images "
            f"of one size; {folder.path} takes images of any: leave it out"
        )
    check_exclude(parts.bundle, options)
    for note in captured.notes:
        notify(Note(note, warning=True))
    most = min(options.seq_len or NEW_TOKENS, captured.most_tokens)
    return OpenedParts(captured, way, parts, most)


def _first_size(generating: Generating, source: DataSource, options: Options) -> tuple[int, int]:
    """Height and width of the first image."""
    image = next(iter(choose_given(generating, source, options).samples)).image
    return image.height, image.width


def choose_given(generating: Generating, source: DataSource, options: Options) -> Chosen:
    """The samples that are used, none of which is read yet.

    Raises:
        UsageError: the data is not what the model reads.
    """
    given = source.media or source.text
    if given is None and source.given is not None:
        raise UsageError(
            f"{generating.name} reads {' and '.join(generating.task.reads)}: give files of it, or "
            "nothing"
        )
    return choose_samples(
        generating.processor,
        given,
        "" if source.given is None else str(source.given),
        generating.name,
        options.num_samples or NUM_SAMPLES,
        options.seed,
    )


def read_samples(
    generating: Generating,
    source: DataSource,
    options: Options,
    notify: Callable[[Note], object],
) -> list[dict[str, Tensor]]:
    """What the processor makes of each sample."""
    chosen = choose_given(generating, source, options)
    made = [generating.inputs([sample], options.seq_len) for sample in chosen.samples]
    for text in (*chosen.notes, *chosen.reader.notes()):
        notify(Note(text, warning=source.given is None))
    return made


def generated(
    opened: OpenedParts,
    folder: Path,
    samples: Sequence[dict[str, Tensor]],
    followed: Sequence[Followed],
) -> dict[str, Any]:
    """What the model in ``folder`` makes of ``samples``, and how far that is from the original's.

    ``followed`` are the same samples, as the float model generated for them.

    Raises:
        VerificationError: the model does not generate with the compiled parts.
    """
    way, parts, generating, most = opened.way, opened.parts, opened.generating, opened.most
    try:
        with way.compiled(parts, folder) as generate:
            found = [generate(each, most) for each in samples]
    except CaptureError as error:
        raise VerificationError(
            f"{generating.name}: generate fails with the compiled parts: {error.text}; please "
            "report it"
        ) from error
    pairs = [(now, was.ids) for now, was in zip(found, followed, strict=True)]
    texts = [(generating.decode(now), generating.decode(was)) for now, was in pairs]
    return {
        "form": find_parts(folder, way.files).relative_to(folder).as_posix(),
        "samples": len(samples),
        "same": sum(now == was for now, was in pairs),
        "word_error_rate": word_error_rate(texts),
        "texts": [{"compiled": now, "original": was} for now, was in texts[:EXAMPLES_KEPT]],
    }
