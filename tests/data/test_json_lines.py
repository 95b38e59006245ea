"""One JSON value a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from awqc.data.json_lines import json_lines, read_text
from awqc.errors import CalibrationError, UsageError

PATH = Path("x.jsonl")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_count_and_say_nothing(end: str) -> None:
    content = end.join(['{"a": 1}', "", "  ", "[2]", ""])
    assert list(json_lines(PATH, content)) == [
        (1, "x.jsonl, line 1", {"a": 1}),
        (4, "x.jsonl, line 4", [2]),
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_what_unicode_calls_the_end_of_a_line_is_text(mark: str) -> None:
    text = json.dumps({"text": f"one{mark}two"}, ensure_ascii=False)
    assert [value for _, _, value in json_lines(PATH, text)] == [{"text": f"one{mark}two"}]


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "1 2"])
def test_a_line_that_is_no_json_is_named(line: str) -> None:
    with pytest.raises(CalibrationError, match=r"x\.jsonl, line 2: is not JSON"):
        list(json_lines(PATH, f"1\n{line}"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    for name, raw, error in [
        ("empty", b" \n", CalibrationError),
        ("binary", b"a\0b", CalibrationError),
        ("latin", b"caf\xe9", CalibrationError),
    ]:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(error, match=name):
            read_text(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read"):
        read_text(tmp_path / "none")
    (tmp_path / "marked").write_bytes("\ufefftext".encode())
    assert read_text(tmp_path / "marked") == "text"
