"""Records that name files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from awqc.data.records import Record, file_records, json_records
from awqc.errors import CalibrationError, UsageError


def test_files_of_the_kind_that_a_model_reads_are_taken() -> None:
    paths = [Path("a.png"), Path("b.wav"), Path("c.jpg")]
    records = file_records(paths, ("text", "image"), "model")
    assert [record.files for record in records] == [{"image": paths[0]}, {"image": paths[2]}]
    with pytest.raises(UsageError, match=r"reads audio, of which there is none .* such as a\.png"):
        file_records(paths[:1], ("audio",), "model")
    with pytest.raises(UsageError, match=r"audio and image together; give a \.jsonl file"):
        file_records(paths, ("audio", "image"), "model")


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    )
    return path


def test_lines_name_files_from_their_own_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"image": "x.png", "text": "a cat"}, "", {"image": "/y.png"})
    assert json_records(path, ("text", "image")) == [
        Record(f"{path}, line 1", "a cat", {"image": tmp_path / "x.png"}),
        Record(f"{path}, line 3", None, {"image": Path("/y.png")}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is not JSON"),
        ("[]", r'line 2: needs "image" \(the name of a file\)'),
        ({"text": "a"}, r'line 2: needs "image"'),
        ({"image": 3}, r'line 2: needs "image"'),
        ({"image": "a.png", "text": 3}, r'line 2: needs "text" \(a text\)'),
    ],
)
def test_a_line_that_says_no_sample_is_refused(line: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"image": "x.png"}, line)
    with pytest.raises(CalibrationError, match=message):
        json_records(path, ("text", "image"))


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is empty"):
        json_records(write(tmp_path / "a.jsonl", "", ""), ("image",))
    with pytest.raises(UsageError, match="cannot be read"):
        json_records(tmp_path / "none.jsonl", ("image",))
