"""What sentence-transformers needs goes along; nothing from outside of the folder does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from awqc.errors import UsageError
from awqc.huggingface.sentence_files import check_begins_with_model, copy_sentence_files

FIRST = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}


def folder(path: Path, second: Any) -> Path:
    path.mkdir()
    (path / "modules.json").write_text(json.dumps([FIRST, second]))
    for name in ("config.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("{}")
    (path / "1_Pooling" / "notes.txt").write_text("not of the model")
    return path


def test_the_files_of_its_modules_are_copied(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"idx": 1, "path": "1_Pooling", "type": "x.Pooling"})
    target = tmp_path / "target"
    target.mkdir()
    copy_sentence_files(source, target)
    found = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    wanted = {"modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
    assert found == wanted
    copy_sentence_files(target / "1_Pooling", tmp_path)  # of another kind: nothing
    assert not (tmp_path / "modules.json").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc", None, 3])
def test_a_module_outside_is_refused(path: Any, tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"idx": 1, "path": path, "type": "x.Pooling"})
    (tmp_path / "target").mkdir()
    with pytest.raises(UsageError, match=r"modules\.json: .* names no folder of a module"):
        copy_sentence_files(source, tmp_path / "target")


def test_a_folder_that_begins_with_no_model_of_transformers_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"idx": 1, "path": "1_Pooling", "type": "x.Pooling"})
    (source / "config.json").unlink()
    with pytest.raises(UsageError, match=r"begins with sentence_transformers\.models\.Transformer"):
        check_begins_with_model(source)
    (source / "modules.json").write_text(json.dumps([{**FIRST, "path": "1_Pooling"}]))
    with pytest.raises(UsageError, match="its model lies in 1_Pooling"):
        check_begins_with_model(source)
    check_begins_with_model(tmp_path)  # of another kind: nothing
