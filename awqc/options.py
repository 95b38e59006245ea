"""What a compile can be told, checked before anything is done."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.artifacts.recipe import read_recipe
from awqc.effort import EFFORTS, ROUNDINGS, PassOptions, merged
from awqc.errors import UsageError
from awqc.export.formats import check_formats, serving
from awqc.export.ort_levels import parse_level
from awqc.export.serving import serving_runtime_scales
from awqc.machine.devices import parse_device
from awqc.numerics.qparams import Bits
from awqc.passes.allocate_bits import AllocateBits
from awqc.passes.convert_dtype import DTYPES
from awqc.passes.pipeline import Pipeline, parse_pipeline, without_search
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.runtimes.base import DEFAULT_RUNTIMES, check_runtimes
from awqc.runtimes.onnxruntime import Provider, resolve_provider

SAMPLES = 64
"""Tokens of each activation that are kept for the search under the runtime's numerics."""


@dataclass(frozen=True)
class Options:
    """How to compile.

    Attributes:
        bits: width of a weight: 2, 3, 4 or 8.
        group_size: input channels that share a scale; -1: one scale an output channel;
            ``"auto"``: the largest of 128, 64, 32 that divides the input channels.
        symmetric: fix zero points at the midpoint.
        exclude: regular expressions; weights whose name matches one stay in float.
        head_bits: width of the product that makes a language model's logits; 0: float.
        embed_bits: width of embedding tables, 8, or 0: float.
        pipeline: passes with options in place of what ``effort`` chooses; see ``awqc passes``.
        formats: what to write: ``onnx``, ``ort``, ``pt2``, ``awq``, ``compressed-tensors``.
        provider: where onnxruntime verifies: ``auto``, ``cuda`` or ``cpu``.
        verify_with: names of runtimes, each of which runs the exported forms that it can;
            see `awqc.runtimes.base.runtime_names`.
        device: where calibration runs the model: ``cpu``, ``cuda`` or ``cuda:N``.
        max_loss: fail where the outputs move by more than this, |quantized - original| over
            |original|.
        recipe: the decisions of an earlier compile, repeated without calibration.
        num_samples: use at most this many samples of the calibration data.
        effort: ``fast`` scales and rounds to nearest, ``default`` compensates and tunes on some
            of the data, ``best`` on all of it.
        rounding: how codes are chosen: ``nearest`` or ``gptq``; ``auto``: as the effort says.
        sequential: round each weight on what the quantized part before it gives.
        stats: a file that keeps what calibration learned, or gives it in place of a calibration.
        avg_bits: mean bits of the weights that products read, scales and zero points counted,
            each with ``bits`` or more.
        budget: the same in bytes of all tensors together; a number, or text such as ``90MB``.
        seed: of data that is made up, sketches and the order of tuning.
        runtime_scales: multiply by scales that cannot be folded: ``auto`` if it pays, ``never``,
            or ``always`` where the loss falls.
        runtime_numerics: arithmetic that scales are searched for: ``fp``, or ``ort-default``,
            the int8 activations of onnxruntime's default sessions.
        dtype: what the exported model computes in; ``auto``: as the model came.
        accuracy_level: how onnxruntime multiplies, 0 to 4: 4 rounds activations to int8, 1
            computes in float32; ``auto``: 4 unless that loses too much.
    """

    bits: Bits = 4
    group_size: int | str = "auto"
    symmetric: bool = False
    exclude: tuple[str, ...] = ()
    head_bits: int = 8
    embed_bits: int = 8
    pipeline: str | None = None
    formats: tuple[str, ...] = ("onnx", "pt2")
    provider: Provider = "auto"
    verify_with: tuple[str, ...] = DEFAULT_RUNTIMES
    device: str = "cpu"
    max_loss: float | None = None
    recipe: str | Path | None = None
    num_samples: int | None = None
    effort: str = "default"
    rounding: str = "auto"
    sequential: bool = False
    stats: str | Path | None = None
    avg_bits: float | None = None
    budget: int | str | None = None
    seed: int = 0
    runtime_scales: str = "auto"
    runtime_numerics: str = "fp"
    dtype: str = "auto"
    accuracy_level: int | str = "auto"

    def build_pipeline(self) -> Pipeline:
        """The passes, with these options as their defaults."""
        spec = {
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "exclude": self.exclude,
            "head_bits": self.head_bits,
            "embed_bits": self.embed_bits,
            "sequential": self.sequential,
        }
        effort = EFFORTS[self.effort]
        text = self.pipeline or effort.pipeline
        if (self.avg_bits or self.budget) and AllocateBits.name not in text:
            text = text.replace(QuantizeWeights.name, f"{AllocateBits.name},{QuantizeWeights.name}")
        runtime_scales = serving_runtime_scales(serving(self.formats), self.runtime_scales)
        options: PassOptions = {
            "quantize_weights": spec,
            "insert_observers": {
                "seed": self.seed,
                "samples": SAMPLES if self.runtime_numerics == "ort-default" else 0,
            },
            "calibrate": {"stats": str(self.stats or ""), "device": self.device},
            "allocate_bits": {
                "avg_bits": self.avg_bits or 0.0,
                "budget": parse_size(self.budget) if self.budget else 0,
                "choices": _wider(self.bits),
            },
            "search_scales": {
                "runtime_scales": runtime_scales,
                "runtime_numerics": self.runtime_numerics,
            },
        }
        if self.recipe is not None:
            recipe = read_recipe(self.recipe)
            text = self.pipeline or without_search(recipe.pipeline)
            options["load_scales"] = {"recipe": str(self.recipe)}
            options["quantize_weights"] = {
                **recipe.quantization,
                "exclude": tuple(recipe.quantization["exclude"]),
            }
            if recipe.quantization.get("rounding") == "gptq":
                options["quantize_weights"]["codes"] = str(recipe.folder)
        asked = {} if self.pipeline and self.rounding == "auto" else effort.options(self.rounding)
        return parse_pipeline(text, **merged(asked, options))


def parse_options(**given: Any) -> Options:
    """`Options` of keyword arguments.

    Raises:
        UsageError: an option is unknown, or its value unusable.
    """
    known = set(Options.__dataclass_fields__)
    unknown = [key for key in given if key not in known]
    if unknown:
        raise UsageError(
            f"compile() has no option {unknown[0]!r}; options: {', '.join(sorted(known))}"
        )
    for key in ("exclude", "formats", "verify_with"):
        if isinstance(given.get(key), str):
            given[key] = tuple(filter(None, given[key].split(",")))
        elif key in given:
            given[key] = tuple(given[key])
    options = Options(**given)
    check_formats(options.formats)
    check_runtimes(options.verify_with, options.formats)
    _check_choice("dtype", options.dtype, ("auto", *DTYPES))
    parse_level(options.accuracy_level)
    _check_choice("effort", options.effort, EFFORTS)
    _check_choice("rounding", options.rounding, ("auto", *ROUNDINGS))
    parse_device(options.device)
    if options.avg_bits and options.budget:
        raise UsageError("avg_bits and budget: give one of them")
    options.build_pipeline()
    if options.provider != "auto":
        resolve_provider(options.provider)
    return options


def _wider(bits: int) -> tuple[str, ...]:
    """``bits`` and the wider ones that onnxruntime has fast kernels for."""
    return tuple(str(width) for width in sorted({bits, 4, 8}) if width >= bits)


def parse_size(size: int | str) -> int:
    """Bytes of a number, or of text such as ``90MB`` or ``1.5 GiB``.

    Raises:
        UsageError: it reads like neither.

    >>> parse_size("90MB"), parse_size("2 KiB"), parse_size(7)
    (90000000, 2048, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?\s*", str(size), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"size {size!r}: write bytes, or a number with KB, MB, GB, KiB, MiB, GiB")
    power = " kmg".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r}: choose one of {', '.join(choices)}")
