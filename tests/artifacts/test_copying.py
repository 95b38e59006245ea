"""A folder is copied whole; the first file that cannot be is the reason that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from awqc.artifacts.copying import copy_tree


def test_all_but_what_is_ignored_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a").write_text("a")
    (source / "deep" / "er" / "b").write_text("b")
    (source / "deep" / "left").write_text("left out")
    target.mkdir()
    (target / "there").write_text("stays")
    copy_tree(source, target, lambda where, names: [n for n in names if n == "left"])
    found = {str(p.relative_to(target)): p.read_text() for p in target.rglob("*") if p.is_file()}
    assert found == {"a": "a", "deep/er/b": "b", "there": "stays"}


def test_a_failure_is_one_error_with_its_reason(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        copy_tree(source, target)
    assert caught.value.strerror == "No such file or directory"
