"""`Options`: all that a compile can be told besides the model, its data and where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awqc.errors import UsageError, spelled
from awqc.numerics.name_patterns import check_pattern
from awqc.options.declare import as_flag, declarations, option
from awqc.options.for_target import fitted
from awqc.options.values import (
    check_axes,
    check_parts,
    check_seed,
    check_size,
    parse_image_size,
    read_axes,
    read_parts,
)
from awqc.runtimes.base import DEFAULT_RUNTIMES, runtime_names

if TYPE_CHECKING:
    from awqc.numerics.formats.int_grid import Bits

GROUPS = {
    "model": "How MODEL is loaded",
    "data": "Calibration data",
    "weights": "Which weights are quantized, and how finely",
    "accuracy": "Work that is spent on accuracy",
    "output": "What is written",
    "machine": "Where it runs, and what is accepted",
}


@dataclass(frozen=True)
class Options:
    """How to compile; docs/options.md lists the fields, which are declared here and nowhere else.

    `awqc.compile` takes them as keywords, the command line as flags. Use `parse_options`, which
    checks them.
    """

    inputs: tuple[str, ...] = option(
        (),
        "An input, as name=float32[batch,64]. Names in place of sizes are axes that may vary.",
        group="model",
        many="repeated",
        metavar="SPEC",
        flag="--input",
    )
    dynamic: Mapping[str, Any] | None = option(
        None,
        "Another axis that may vary, besides the batch.",
        group="model",
        many="repeated",
        metavar="NAME:AXIS[=LABEL]",
        read=read_axes,
        check=check_axes,
    )
    trust_pickle: bool = option(
        False,
        "Load a pickle that holds other than stock torch.nn classes. This runs code of the "
        "file: only for files that you made or trust.",
        group="model",
        kind=bool,
    )
    part: Mapping[str, Any] | None = option(
        None,
        "A module, or a method of one, that becomes a graph of its own, as text=text_model or "
        "decoder=vae.decode; what is not named stays with the caller. For models that are run to "
        "find their parts.",
        group="model",
        many="repeated",
        metavar="NAME=MODULE",
        read=read_parts,
        check=check_parts,
    )
    task: str | None = option(
        None,
        "Task of a Hugging Face model, where it is not recognised.",
        group="model",
    )
    trust_remote_code: bool = option(
        False,
        "Let a Hugging Face folder run its own Python files.",
        group="model",
        kind=bool,
    )
    weights: str | Path | None = option(
        None,
        "Weights for the model that a factory makes: .safetensors, a state dict, or a checkpoint "
        "that holds one, such as Lightning's.",
        group="model",
        kind=Path,
        metavar="FILE",
    )
    adapter: str | Path | None = option(
        None,
        "Folder of a LoRA adapter, as peft saves it, that is merged into MODEL, a Hugging Face "
        "folder.",
        group="model",
        kind=Path,
        metavar="DIR",
    )
    num_samples: int | None = option(
        None,
        "Use at most this many samples.",
        group="data",
        kind=int,
        least=1,
        most=10**6,
    )
    seq_len: int | None = option(
        None,
        "Tokens a sample, for language models.",
        group="data",
        kind=int,
        least=2,
        most=10**7,
    )
    image_size: str | None = option(
        None,
        "Height and width of all images, in pixels, for models of images and text whose graph is "
        "for images of one size; by default those of the first image of the data.",
        group="data",
        metavar="HxW",
        check=parse_image_size,
    )
    seed: int = option(
        0,
        "Of data that is made up, of sketches and of the order of tuning.",
        group="data",
        kind=int,
        check=check_seed,
    )
    bits: Bits = option(
        4,
        "Width of a weight.",
        group="weights",
        kind=int,
        choices=(2, 3, 4, 8),
    )
    group_size: int | str = option(
        "auto",
        "Weights that share a scale; -1: one scale an output channel; auto: the largest "
        "of 128, 64, 32 that divides the input channels.",
        group="weights",
        kind=int,
        least=1,
        most=2**31,
        words={"auto": "auto", "-1": -1},
        metavar="N|-1|auto",
    )
    symmetric: bool = option(
        False,
        "Fix zero points at the midpoint.",
        group="weights",
        kind=bool,
    )
    exclude: tuple[str, ...] = option(
        (),
        "Leave weights whose name matches in float; re:REGEX must match from its start.",
        group="weights",
        many="repeated",
        metavar="REGEX",
        check=check_pattern,
    )
    head_bits: int | str = option(
        8,
        "Width of the product that makes a language model's logits; none (0): float; auto: 4 or 8, "
        "by what 4 lose on data held back and the time that they save. Where it is the table of "
        "embeddings too, it gets codes of its own for 2 to 4.",
        group="weights",
        kind=int,
        choices=(2, 3, 4, 8),
        words={"none": 0, "auto": "auto"},
    )
    embed_bits: int = option(
        8,
        "Width of embedding tables; none (0): float.",
        group="weights",
        kind=int,
        choices=(8,),
        words={"none": 0},
    )
    conv_bits: int | None = option(
        None,
        f"Width of the kernels of convolutions; default: as {spelled('bits')}; none (0): float.",
        group="weights",
        kind=int,
        choices=(2, 3, 4, 8),
        words={"none": 0},
    )
    weight_format: str = option(
        "",
        "A format by name, as Q4_K of GGUF, for the weights that it has a place for; "
        f"{spelled('bits')}, {spelled('group_size')} and {spelled('symmetric')} are then for the "
        "others.",
        group="weights",
        metavar="NAME",
    )
    effort: str = option(
        "default",
        "Work spent on accuracy: fast scales and rounds to nearest; default also "
        "compensates rounding errors and tunes scales on the model's outputs; best tunes them on "
        "all of the calibration data.",
        group="accuracy",
        choices=("fast", "default", "best"),
    )
    rounding: str = option(
        "auto",
        "How codes are chosen; auto: as the effort says.",
        group="accuracy",
        choices=("auto", "nearest", "gptq"),
    )
    sequential: bool = option(
        False,
        "Round each weight on what the quantized part before it gives; takes one more pass "
        "over the calibration data, held in memory at once.",
        group="accuracy",
        kind=bool,
    )
    avg_bits: float | None = option(
        None,
        f"Give each weight {spelled('bits')} or more, so that X bits a weight, scales and "
        f"zero points counted, lose least; groups too, where {spelled('group_size')} is auto.",
        group="accuracy",
        kind=float,
        least=0,
        above=True,
        most=32,
        metavar="X",
    )
    budget: int | str | None = option(
        None,
        f"As {spelled('avg_bits')}, so that all tensors together take at most SIZE, as 90MB.",
        group="accuracy",
        kind=object,
        metavar="SIZE",
        check=partial(check_size, "budget"),
    )
    runtime_scales: str = option(
        "auto",
        "Multiply by scales when the model runs, where they cannot be folded: if it pays, "
        "never, or whenever the loss falls.",
        group="accuracy",
        choices=("auto", "never", "always"),
    )
    runtime_numerics: str = option(
        "fp",
        "Arithmetic that scales are searched for: ort-default counts the int8 activations "
        "of onnxruntime's default sessions.",
        group="accuracy",
        choices=("fp", "ort-default"),
    )
    stats: str | Path | None = option(
        None,
        "Keep what calibration learns in FILE; where FILE exists, take it from there and "
        "run no calibration, whatever bits and groups are asked for.",
        group="accuracy",
        kind=Path,
        metavar="FILE",
    )
    recipe: str | Path | None = option(
        None,
        "Repeat the decisions of an earlier compile; no calibration is run.",
        group="accuracy",
        kind=Path,
        metavar="FILE",
    )
    pipeline: str | None = option(
        None,
        "Passes to run with the options that it gives them, in place of "
        f"{spelled('effort')}; see awqc passes.",
        group="accuracy",
        metavar="SPEC",
    )
    formats: tuple[str, ...] = option(
        ("onnx", "pt2"),
        "What to write.",
        group="output",
        many="commas",
        metavar="NAMES",
        choices=("onnx", "ort", "pt2", "awq", "compressed-tensors", "gguf"),
    )
    target: str = option(
        "auto",
        "What will run the model: its form is written besides, with the operations, groups and "
        "zero points that it takes; auto: the formats asked for, ort for onnxruntime on the CPU.",
        group="output",
        choices=("auto", "ort-cpu", "ort-cuda", "webgpu", "dml", "openvino", "trt-rtx", "qnn",
                 "onnx"),
    )  # fmt: skip
    positions: str = option(
        "auto",
        "How the ort form of a decoder knows positions; given: by an input, as the model; auto: "
        "as places in its cache, without that input, where that is the same also behind padding "
        "on the left, and the data has no other positions.",
        group="output",
        choices=("auto", "given"),
    )
    gguf: str | Path | None = option(
        None,
        "A GGUF file of the same model, from which the format gguf takes names, metadata and "
        "tokenizer; where its weights are quantized and "
        f"{spelled('weight_format')} is not given, also the type of each.",
        group="output",
        kind=Path,
        metavar="FILE",
    )
    layout: str = option(
        "plain",
        "How the folder is arranged; transformers.js: as that library looks for files, for models "
        "from a Hugging Face folder; onnxruntime-genai: likewise, for models that transcribe.",
        group="output",
        choices=("plain", "transformers.js", "onnxruntime-genai"),
    )
    dtype: str = option(
        "auto",
        "What the exported model computes in; auto: as the model came.",
        group="output",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    accuracy_level: int | str = option(
        "auto",
        "How onnxruntime multiplies: 4 rounds activations to int8, 1 computes in "
        "float32; auto: 4 unless that loses too much.",
        group="output",
        kind=int,
        choices=("auto", 0, 1, 2, 3, 4),
    )
    work_dir: str | Path | None = option(
        None,
        "Where finished segments of a large model are kept until all is done, so that the same "
        "compile goes on after it was interrupted; by default hidden beside the output.",
        group="machine",
        kind=Path,
        metavar="DIR",
    )
    memory: int | str | None = option(
        None,
        "Memory to stay within, as 4GB: segments are as small, and as much is kept in files, as "
        "that takes; what cannot fit is refused before work begins. By default what the machine, "
        "its control groups and ulimit leave.",
        group="machine",
        metavar="SIZE",
        check=partial(check_size, "memory"),
    )
    fresh: bool = option(
        False,
        "Start anew: remove what an interrupted compile kept.",
        group="machine",
        kind=bool,
    )
    device: str = option(
        "cpu",
        "Where the model is calibrated, searched, rounded and tuned, a segment at a time: cpu, "
        "cuda or cuda:N.",
        group="machine",
    )
    provider: str = option(
        "auto",
        "Where onnxruntime verifies.",
        group="machine",
        choices=("auto", "cuda", "cpu"),
    )
    verify_with: tuple[str, ...] = option(
        DEFAULT_RUNTIMES,
        "Runtimes that run the exported forms to verify them.",
        group="machine",
        many="commas",
        metavar="NAMES",
        choices=runtime_names(),
    )
    max_loss: float = option(
        0.5, "Fail if the error of an output is larger than this, against the original's, as "
        "|quantized - original| / |original - its mean|; the default keeps half of the signal at "
        "least, inf publishes whatever the loss.",
        group="machine", kind=float, least=0, metavar="X",
    )  # fmt: skip


DECLARED = declarations(Options)
"""Each field of `Options`, by name."""


def parse_options(**given: Any) -> Options:
    """`Options` of keyword arguments; nothing is loaded or built.

    Raises:
        UsageError: an option is unknown, its value unusable, or two contradict each other.
    """
    unknown = [name for name in given if name not in DECLARED]
    if unknown:
        raise UsageError(
            f"compile() has no option {unknown[0]!r}; options: {', '.join(sorted(DECLARED))}"
        )
    checked = {name: DECLARED[name].checked(value) for name, value in given.items()}
    options = replace(Options(), **checked)
    if options.avg_bits and options.budget:
        raise UsageError(f"{spelled('avg_bits')} and {spelled('budget')}: give one of them")
    if options.weight_format and (options.avg_bits or options.budget):
        raise UsageError(
            f"{spelled('avg_bits')} and {spelled('budget')} choose among widths of whole numbers; "
            f"leave {spelled('weight_format')} out"
        )
    return fitted(options)


def on_command_line(name: str, value: Any) -> str:
    """How messages name an option to who called from the command line."""
    flag = DECLARED[name].flags if name in DECLARED else "--" + name.replace("_", "-")
    return as_flag(flag, value)
