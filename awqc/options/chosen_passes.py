"""The passes that a compile runs, by its options."""

from __future__ import annotations

from awqc.artifacts.recipe import read_recipe
from awqc.effort import EFFORTS, PassOptions, merged
from awqc.export.formats import check_held, serving
from awqc.export.serving import serving_runtime_scales
from awqc.options.compile_options import Options
from awqc.options.values import parse_size
from awqc.passes.allocate_bits import AllocateBits
from awqc.passes.pipeline import Pipeline, parse_pipeline, without_search
from awqc.passes.quantize_weights import QuantizeWeights

SAMPLES = 64
"""Tokens of each activation that are kept for the search under the runtime's numerics."""


def build_pipeline(asked: Options) -> Pipeline:
    """The passes that ``asked`` chooses, with what it says as their options.

    Raises:
        UsageError: the pipeline, the recipe or a combination of options is unusable.
    """
    spec = {
        "bits": asked.bits,
        "group_size": asked.group_size,
        "symmetric": asked.symmetric,
        "exclude": asked.exclude,
        "head_bits": asked.head_bits,
        "embed_bits": asked.embed_bits,
        "sequential": asked.sequential,
        "weight_format": asked.weight_format,
    }
    effort = EFFORTS[asked.effort]
    text = asked.pipeline or effort.pipeline
    if (asked.avg_bits or asked.budget) and AllocateBits.name not in text:
        text = text.replace(QuantizeWeights.name, f"{AllocateBits.name},{QuantizeWeights.name}")
    runtime_scales = serving_runtime_scales(serving(asked.formats), asked.runtime_scales)
    options: PassOptions = {
        "quantize_weights": spec,
        "insert_observers": {
            "seed": asked.seed,
            "samples": SAMPLES if asked.runtime_numerics == "ort-default" else 0,
        },
        "calibrate": {"stats": str(asked.stats or ""), "device": asked.device},
        "allocate_bits": {
            "avg_bits": asked.avg_bits or 0.0,
            "budget": parse_size(asked.budget) if asked.budget else 0,
            "choices": _wider(asked.bits),
        },
        "search_scales": {
            "runtime_scales": runtime_scales,
            "runtime_numerics": asked.runtime_numerics,
        },
    }
    if asked.recipe is not None:
        recipe = read_recipe(asked.recipe)
        text = asked.pipeline or without_search(recipe.pipeline)
        options["load_scales"] = {"recipe": str(asked.recipe)}
        options["quantize_weights"] = {
            **recipe.quantization,
            "exclude": tuple(recipe.quantization["exclude"]),
        }
        if recipe.quantization.get("rounding") == "gptq":
            options["quantize_weights"]["codes"] = str(recipe.folder)
    own = {} if asked.pipeline and asked.rounding == "auto" else effort.options(asked.rounding)
    pipeline = parse_pipeline(text, **merged(own, options))
    for step in pipeline.passes:
        if isinstance(step, QuantizeWeights):
            check_held(asked.formats, step.asked)
    return pipeline


def _wider(bits: int) -> tuple[str, ...]:
    """``bits`` and the wider ones that onnxruntime has fast kernels for."""
    return tuple(str(width) for width in sorted({bits, 4, 8}) if width >= bits)
