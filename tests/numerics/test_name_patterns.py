"""Patterns that name weights: what they fit, and what is said where they fit nothing."""

from __future__ import annotations

import pytest

from awqc.errors import UsageError
from awqc.numerics.name_patterns import check_fits, check_pattern, names_weight

NAMES = [
    f"model.layers.{layer}.{name}.weight"
    for layer in range(12)
    for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
] + ["lm_head.weight"]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("down_proj", 12),
        (r"layers\.1\.", 3),
        ("^lm_head", 1),
        ("re:.*down_proj", 12),
        ("re:.*down_proj$", 12),
        ("re:lm_head", 1),
        ("re:down_proj", 0),
        (r"re:model\.layers\.(0|11)\..*", 6),
    ],
)
def test_a_pattern_is_found_anywhere_and_after_re_from_the_start(pattern: str, count: int) -> None:
    assert sum(names_weight(pattern, name) for name in NAMES) == count


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("down_prj", "model.layers.0.mlp.down_proj.weight"),
        ("re:.*downproj", "model.layers.0.mlp.down_proj.weight"),
        ("lmhead", "lm_head.weight"),
        (r"model\.layer\.3\.mlp\.up_proj", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_what_fits_nothing_is_refused_with_the_nearest_names(pattern: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        check_fits(["q_proj", pattern], NAMES, "the model")
    assert f"exclude={pattern!r} matches no weight of the model" in str(error.value)
    assert f"nearest names: {near}" in str(error.value)


@pytest.mark.parametrize("pattern", ["(", "re:(", "a{99999999999}"])
def test_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="is no regular expression"):
        check_pattern(pattern)
