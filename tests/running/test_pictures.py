"""What a report may say of the parts of a compiled pipeline, before anything is loaded for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from awqc.errors import UsageError
from awqc.running.pictures import Pictures

GOOD = {"module": "unet", "method": "forward", "inputs": {"[0]": "sample"}, "outputs": {}}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (None, "compile the pipeline anew"),
        ([], "'entries' is a list"),
        ({"unet": 5}, "'unet' is"),
        ({"../unet": GOOD}, "is no name of a folder"),
        ({"unet": {**GOOD, "method": None}}, "'method' is"),
        ({"unet": {**GOOD, "inputs": {"[0]": 1}}}, r"'\[0\]' is"),
        ({"unet": {"module": "unet"}}, "has no 'method'"),
    ],
)
def test_a_report_that_says_something_else_is_refused(
    tmp_path: Path, entries: Any, told: str
) -> None:
    report = {} if entries is None else {"entries": entries}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match=told):
        Pictures(tmp_path, tmp_path / "images")
