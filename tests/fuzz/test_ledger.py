"""Cases are counted once, finds are looked at again, and the page tells both."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.ledger import Ledger
from tests.fuzz.page import HEADING, write_page
from tests.verification_page import TITLE, write_section


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(number: int) -> list[str]:
        seen.append(number)
        return ["compared"]

    for until in (3, 5, 4):
        Ledger.read("graphs", tmp_path).run(look, until, print, tmp_path)
    assert seen == [0, 1, 2, 3, 4]
    assert Ledger.read("graphs", tmp_path).counts == {"compared": 5}


def test_a_find_is_told_and_looked_at_again_until_it_is_mended(tmp_path: Path) -> None:
    told: list[str] = []

    def look(number: int) -> list[str]:
        if number == 1 and not mended:
            raise ValueError("something")
        return []

    mended = False
    for until in (3, 4):
        ledger = Ledger.read("files", tmp_path)
        ledger.run(look, until, told.append, tmp_path)
        assert ledger.open_finds == [1]
    mended = True
    ledger.run(look, 4, told.append, tmp_path)
    assert ledger.open_finds == []
    assert told == ["files 1: ValueError: something"]
    kept = Ledger.read("files", tmp_path)
    assert (kept.done, kept.mended, list(kept.finds)) == (4, [1], ["1"])


def test_a_section_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_section("One", "a\n\n### b", page)
    write_section("Two", "c", page)
    assert page.read_text() == f"{TITLE}\n## One\n\na\n\n### b\n\n## Two\n\nc\n"
    write_section("One", "d", page)
    assert page.read_text() == f"{TITLE}\n## One\n\nd\n\n## Two\n\nc\n"


def test_the_page_is_made_of_what_was_counted(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    counted = {"compared": 7, "sizes compared": 20, "refused": 2, "refused: SizesError: x": 2}
    ledger = Ledger("graphs", 10, 1800.0, finds={"4": "AssertionError: off"})
    ledger.counts.update(counted)
    ledger.write(tmp_path)
    write_page(tmp_path, page)
    text = page.read_text()
    assert text.startswith(f"{TITLE}\n## {HEADING}\n\n")
    assert "| 10 | 9 | 1 | 0 | 0.5 |" in text
    assert (
        "7 were compared, at 20 sizes; 2 were refused with a reason (`SizesError: x …` 2)" in text
    )


def test_the_page_tells_how_commands_ended(tmp_path: Path) -> None:
    ledger = Ledger("files", 3)
    ledger.counts.update(["exit code 0", "exit code 1", "exit code 1"])
    ledger.counts.update({"file: decode/exit code.json": 3})
    ledger.write(tmp_path)
    write_page(tmp_path, tmp_path / "page.md")
    assert (
        "damaged were 1 files of a corpus; exit codes 0: 1, 1: 2."
        in (tmp_path / "page.md").read_text()
    )
