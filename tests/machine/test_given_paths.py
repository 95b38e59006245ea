"""Paths as callers give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from awqc.errors import UsageError
from awqc.machine.given_paths import given_path


def test_text_and_paths_do(tmp_path: Path) -> None:
    assert given_path(str(tmp_path), "it") == given_path(tmp_path, "it") == tmp_path
    assert given_path("~", "it") == Path.home()


@pytest.mark.parametrize("value", [3, b"x", None, ["x"], "a\0b"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^it .*path"):
        given_path(value, "it")
