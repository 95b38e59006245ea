"""Options that several commands share, and what they make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from awqc.data.calibration import CalibrationData
    from awqc.program import Program

F = TypeVar("F", bound=Callable[..., Any])

TEXT_SUFFIXES = (".txt", ".jsonl")
SOURCE_HELP = """MODEL is a torch.export archive (.pt2), a pickled nn.Module (.pt, .pth), a
Hugging Face folder or GGUF file, or package.module:factory, a function that returns the
module (or the pair module, example inputs)."""


@dataclass(frozen=True)
class ModelSource:
    """MODEL and how to load it, as the options of `model_options` say."""

    model: str
    inputs: tuple[str, ...]
    dynamic: tuple[str, ...]
    trust_pickle: bool
    task: str | None
    trust_remote_code: bool

    def load(self, calib: Path | None = None, seed: int = 0) -> Program:
        """Capture MODEL; inputs may come from the calibration data."""
        from awqc.data.array_files import read_arrays
        from awqc.sources.source import load_program

        text = calib is not None and calib.suffix in TEXT_SUFFIXES
        return load_program(
            self.model,
            inputs=self.inputs,
            calib=None if calib is None or text else read_arrays(calib),
            dynamic=parse_dynamic(self.dynamic),
            trust_pickle=self.trust_pickle,
            seed=seed,
            task=self.task,
            trust_remote_code=self.trust_remote_code,
        )


def _gathered(function: F, name: str, keys: Iterable[str], make: Callable[..., Any]) -> F:
    """``function`` with ``make(**options)`` of the options ``keys`` as its argument ``name``."""

    @wraps(function)
    def gathering(**options: Any) -> Any:
        mine = {key: options.pop(key) for key in keys}
        return function(**options, **{name: make(**mine)})

    return cast("F", gathering)


def model_options(function: F) -> F:
    """MODEL and how to load it: the argument ``source``, a `ModelSource`."""
    keys = [field.name for field in fields(ModelSource)]
    function = _gathered(function, "source", keys, ModelSource)
    for option in (
        click.option("--trust-remote-code", is_flag=True,
                     help="Let a Hugging Face folder run its own Python files."),
        click.option("--task", help="Task of a Hugging Face model, where it is not recognised."),
        click.option("--trust-pickle", is_flag=True,
                     help="Load a pickle that holds other than stock torch.nn classes. This runs "
                     "code of the file: only for files that you made or trust."),
        click.option("--dynamic", "dynamic", multiple=True, metavar="NAME:AXIS[=LABEL]",
                     help="Another axis that may vary, besides the batch; repeatable."),
        click.option("--input", "inputs", multiple=True, metavar="SPEC",
                     help="An input, as name=float32[batch,64]; repeatable. Names in place of "
                     "sizes are axes that may vary."),
        click.argument("model"),
    ):
        function = option(function)
    return function


def quantization_options(function: F) -> F:
    """Bits, groups and what is left alone: the argument ``quantization``, fields of a spec."""
    keys = (
        "bits", "group_size", "symmetric", "exclude", "head_bits", "embed_bits", "weight_format"
    )  # fmt: skip
    function = _gathered(function, "quantization", keys, _parse_quantization)
    for option in (
        click.option("--weight-format", default="", metavar="NAME",
                     help="A format by name, as Q4_K, for the weights that it has a place for; "
                     "--bits, --group-size and --symmetric are then for the others."),
        click.option("--embed-bits", type=click.Choice(["8", "none"]), default="8",
                     show_default=True, help="Width of embedding tables."),
        click.option("--head-bits", type=click.Choice(["2", "3", "4", "8", "none"]), default="8",
                     show_default=True, help="Width of the product that makes a language "
                     "model's logits."),
        click.option("--exclude", multiple=True, metavar="REGEX",
                     help="Leave weights whose name matches in float; repeatable."),
        click.option("--symmetric", is_flag=True, help="Fix zero points at the midpoint."),
        click.option("--group-size", default="auto", show_default=True, metavar="N|-1|auto",
                     help="Weights that share a scale; -1: one scale an output channel; auto: the "
                     "largest of 128, 64, 32 that divides."),
        click.option("--bits", type=click.Choice(["2", "3", "4", "8"]), default="4",
                     show_default=True, help="Width of a weight."),
    ):
        function = option(function)
    return function


def calibration_options(function: F) -> F:
    """Calibration data."""
    for option in (
        click.option("--seed", type=int, default=0, show_default=True,
                     help="Of made-up data and of sketches."),
        click.option("--seq-len", type=int, help="Tokens a sample, for language models."),
        click.option("--num-samples", type=click.IntRange(min=1),
                     help="Use at most this many samples."),
        click.option("--calib", type=click.Path(path_type=Path), metavar="FILE",
                     help="Calibration data: .npz, .safetensors or .pt with an array for each "
                     "input (first axis = samples); .txt or .jsonl for language models. Without "
                     "it, random data is made up, and the result is as good as that."),
    ):
        function = option(function)
    return function


def _parse_quantization(
    bits: str, group_size: str, head_bits: str, embed_bits: str, **rest: Any
) -> dict[str, Any]:
    """Fields of `awqc.numerics.request.QuantizationSpec`."""
    return {
        "bits": int(bits),
        "group_size": parse_group_size(group_size),
        "head_bits": parse_bits(head_bits),
        "embed_bits": parse_bits(embed_bits),
        **rest,
    }


def parse_bits(text: str) -> int:
    """A number, or 0 for ``none``."""
    return 0 if text == "none" else int(text)


def parse_group_size(text: str) -> int | str:
    """``auto`` or a number.

    Raises:
        UsageError: it is neither.
    """
    from awqc.errors import UsageError

    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--group-size {text!r}: give a number, -1 or auto") from None


def parse_dynamic(items: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """``NAME:AXIS[=LABEL]`` items as axes by input name.

    Raises:
        UsageError: an item does not read like that.
    """
    from awqc.errors import UsageError

    axes: dict[str, dict[int, str]] = {}
    for item in items:
        place, _, label = item.partition("=")
        name, colon, axis = place.rpartition(":")
        if not colon or not name or not axis.isdigit():
            raise UsageError(f"--dynamic {item!r}: write NAME:AXIS or NAME:AXIS=LABEL, as x:1=seq")
        axes.setdefault(name, {})[int(axis)] = label or f"{name}_axis_{axis}"
    return axes


def load_data(
    program: Program,
    model: str,
    calib: Path | None,
    num_samples: int | None,
    seq_len: int | None,
    seed: int,
) -> CalibrationData:
    """Calibration data of a file, of text, or made up.

    Raises:
        UsageError: ``seq_len`` is given where no text is read.
    """
    from awqc.data.calibration import load_calibration, synthetic
    from awqc.errors import UsageError

    path = Path(model)
    folder_model = path.is_dir() or path.suffix == ".gguf"
    if folder_model and (calib is None or calib.suffix in TEXT_SUFFIXES):
        from awqc.data.text import text_calibration
        from awqc.huggingface.folder import HFFolder

        folder = HFFolder.at(path)
        return text_calibration(
            program, folder, calib, num_samples=num_samples, seq_len=seq_len, seed=seed
        )
    if seq_len is not None:
        raise UsageError("--seq-len is for language models that read text; leave it out here")
    if calib is None:
        return synthetic(program, num_samples or 64, seed)
    return load_calibration(calib, program, num_samples)
