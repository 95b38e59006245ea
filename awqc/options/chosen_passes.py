"""The passes that a compile runs, by its options."""

from __future__ import annotations

from typing import Any

from awqc.artifacts.recipe import Recipe, read_recipe
from awqc.export.formats import check_held, runtime_scales
from awqc.findings import NO_FACTS
from awqc.numerics.request import NAMED_WIDTHS, QuantizationSpec
from awqc.options.compile_options import Options
from awqc.options.effort import EFFORTS, PassOptions, merged
from awqc.options.values import parse_size
from awqc.passes.allocate_bits import AllocateBits
from awqc.passes.pipeline import Pipeline, make_pipeline, parse_pipeline
from awqc.passes.quantize_weights import QuantizeWeights

AUTO, WIDE_HEAD = "auto", 8
"""Of a head, and the width that it has until one is chosen, which is that of tables too."""
NARROW_HEADS = (2, 3, 4)
OWN_NAMES = frozenset({"onnx", "ort", "pt2"})
"""Formats whose weights have the program's names, so that a head may be no table; others have those
of a checkpoint."""
SAMPLES = 64
"""Tokens of each activation that are kept for the search under the runtime's numerics."""


def build_pipeline(asked: Options) -> Pipeline:
    """The passes that ``asked`` chooses, with what it says as their options.

    Raises:
        UsageError: the pipeline, the recipe or a combination of options is unusable.
    """
    effort = EFFORTS[asked.effort]
    own = {} if asked.pipeline and asked.rounding == "auto" else effort.options(asked.rounding)
    options = merged(own, _pass_options(asked))
    if asked.recipe is not None:
        pipeline = _repeated(asked, read_recipe(asked.recipe), options)
    elif asked.pipeline:
        pipeline = parse_pipeline(asked.pipeline, NO_FACTS, **options)
    else:
        pipeline = make_pipeline(effort.passes, options)
    allocates = any(isinstance(step, AllocateBits) for step in pipeline.passes)
    if (asked.avg_bits or asked.budget) and asked.recipe is None and not allocates:
        step = AllocateBits(**options["allocate_bits"])
        pipeline = pipeline.with_pass(step, before=QuantizeWeights)
    if asked.head_bits in NARROW_HEADS and asked.recipe is None and may_untie(asked):
        pipeline = pipeline.with_untied_head()
    for each in pipeline.passes:
        if isinstance(each, QuantizeWeights):
            check_held(asked.formats, each.spec.asked)
    return pipeline


def may_untie(asked: Options) -> bool:
    """Whether a head that is its embedding's table may have codes of its own."""
    return not asked.pipeline and not asked.weight_format and OWN_NAMES.issuperset(asked.formats)


def _pass_options(asked: Options) -> PassOptions:
    """What ``asked`` says of single passes."""
    return {
        "quantize_weights": {**request_of(asked), "sequential": asked.sequential},
        "insert_observers": {
            "seed": asked.seed,
            "samples": SAMPLES if asked.runtime_numerics == "ort-default" else 0,
        },
        "calibrate": {"stats": str(asked.stats or "")},
        "allocate_bits": {
            "avg_bits": asked.avg_bits or 0.0,
            "budget": parse_size(asked.budget) if asked.budget else 0,
            "choices": _wider(asked),
        },
        "search_scales": {
            "runtime_scales": runtime_scales(asked.formats, asked.runtime_scales),
            "runtime_numerics": asked.runtime_numerics,
        },
    }


def request_of(asked: Options) -> dict[str, Any]:
    """What ``asked`` says of how finely weights are quantized: fields of a `QuantizationSpec`."""
    return {
        "bits": asked.bits,
        "group_size": asked.group_size,
        "symmetric": asked.symmetric,
        "exclude": asked.exclude,
        "head_bits": WIDE_HEAD if asked.head_bits == AUTO else asked.head_bits,
        "embed_bits": asked.embed_bits,
        "conv_bits": asked.conv_bits,
        "weight_format": asked.weight_format or _implied(asked),
    }


def _implied(asked: Options) -> str:
    """The format that ``asked`` has in mind where it does not say: whole numbers, or GGUF's own."""
    ggml = "gguf" in asked.formats and not asked.symmetric
    return NAMED_WIDTHS[asked.bits] if ggml else ""


def _repeated(asked: Options, recipe: Recipe, options: PassOptions) -> Pipeline:
    """The passes of ``recipe``, or those asked for, with what it decided."""
    request = {**recipe.quantization, "exclude": tuple(recipe.quantization["exclude"])}
    codes = str(recipe.folder) if QuantizationSpec(**request).learns else ""
    said = {*request_of(asked), "sequential"}
    others = {key: value for key, value in options["quantize_weights"].items() if key not in said}
    options = {
        **options,
        "load_scales": {"recipe": str(asked.recipe)},
        "quantize_weights": {**others, **request, "codes": codes},
    }
    if asked.pipeline:
        return parse_pipeline(asked.pipeline, NO_FACTS, **options)
    return parse_pipeline(recipe.pipeline, NO_FACTS, **options).without_search(str(asked.recipe))


def _wider(asked: Options) -> tuple[str, ...]:
    """The bits asked for and wider ones, of which onnxruntime or llama.cpp has fast kernels."""
    widths = NAMED_WIDTHS if _implied(asked) else {asked.bits, 4, 8}
    return tuple(str(width) for width in sorted(widths) if width >= asked.bits)
