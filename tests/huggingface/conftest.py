"""Decoders of each family, which tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.tiny_language_models import Opened


@pytest.fixture(scope="session")
def decoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """A decoder of the family that is asked for; its folder must not be changed."""

    @cache
    def opened(kind: str) -> Opened:
        return Opened.saved(kind, tmp_path_factory.mktemp("decoder") / kind)

    return opened
