"""The text of passes: read, printed, and refused where it does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awqc.errors import UsageError
from awqc.passes.pipeline import DEFAULT, PASSES, parse_pipeline
from awqc.passes.spelling import build, options_of, read, spell

SPECS = [
    DEFAULT,
    str(parse_pipeline(DEFAULT).without_search()),
    "insert-observers,calibrate,search-scales{grid=5,runtime-scales=never,runtime-threshold=0.5}",
    "convert-dtype,canonicalize,convert-dtype{dtype=bfloat16}",
    "quantize-weights{bits=8,group-size=-1,symmetric=true,exclude=head|embed}",
    "insert-observers{rows=64,seed=3}",
    "load-scales",
]


@pytest.mark.parametrize("spec", SPECS)
def test_text_and_back(spec: str) -> None:
    pipeline = parse_pipeline(spec)
    assert str(pipeline) == spec
    assert parse_pipeline(str(pipeline)) == pipeline


@pytest.mark.parametrize("cls", PASSES.values())
def test_every_option_of_every_pass_survives_its_text(cls: type[Any]) -> None:
    """Each option alone, at another value than its default."""
    for name, option in options_of(cls).items():
        if option.local:
            continue
        step = build(cls, {option.name: OTHER[name]})
        assert spell(step) != spell(cls())
        assert read(spell(step), PASSES, {}) == [step]


OTHER: dict[str, Any] = {
    "rows": 8, "seed": 5, "gram": True, "samples": 3, "grid": 7, "sample-rows": 9,
    "runtime-scales": "never", "runtime-threshold": 0.25, "runtime-numerics": "ort-default",
    "avg-bits": 4.5, "budget": 1000, "choices": ("2", "8"), "batches": 3, "bits": 8,
    "group-size": 64, "symmetric": True, "exclude": ("a,b", "c|d{2}"), "head-bits": 4,
    "embed-bits": 0, "conv-bits": 8, "rounding": "gptq", "clip": True, "sweeps": 2,
    "sequential": True,
    "keep-float": True, "share": 0.5, "step": 3, "rate": 0.01, "dtype": "float16",
    "weight-format": "Q4_K",
}  # fmt: skip
"""A value for each option that is no default."""

PATTERNS = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=9)


@given(st.lists(PATTERNS, max_size=3), st.integers(1, 99), st.sampled_from([2, 3, 4, 8]))
def test_any_option_survives_its_text(patterns: list[str], grid: int, bits: int) -> None:
    # Regular expressions hold commas, bars and braces themselves.
    given: dict[str, dict[str, Any]] = {
        "search_scales": {"grid": grid},
        "quantize_weights": {"bits": bits, "exclude": tuple(map(re.escape, patterns))},
    }
    pipeline = parse_pipeline(DEFAULT, **given)
    assert parse_pipeline(str(pipeline)).passes == pipeline.passes


def test_spaces_and_options_beat_defaults() -> None:
    pipeline = parse_pipeline(
        " canonicalize , quantize-weights{ bits=8 , symmetric }", quantize_weights={"bits": 2}
    )
    assert str(pipeline) == "canonicalize,quantize-weights{bits=8,symmetric=true}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("canonicalise", "no pass is called 'canonicalise'; passes: canonicalize, "),
        ("search-scales{gird=3}", "no option 'gird'; options: grid, "),
        ("canonicalize{a=1}", "options: none"),
        ("search-scales{grid=many}", "a int is needed"),
        ("search-scales{grid=0}", "at least 1"),
        ("search-scales{runtime-scales=maybe}", "auto, never, always"),
        ("search-scales{runtime-threshold=x}", "a float is needed"),
        ("quantize-weights{symmetric=perhaps}", "a bool is needed"),
        ("quantize-weights{bits=5}", r"\(2, 3, 4, 8\)"),
        ("quantize-weights{group-size=0}", "group size"),
        ("quantize-weights{exclude=(}", "no regular expression"),
        ("quantize-weights{bits=4", "cannot read the pipeline at 'quantize-weights"),
        ("canonicalize;calibrate", "cannot read the pipeline"),
        ("", "the pipeline is empty"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pipeline(spec)
