"""Nothing out of a file steers the terminal, and no bracket in a name is markup."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table
from rich.text import Text
from torch import nn

from awqc.cli import run
from awqc.errors import AwqcError, UsageError, printable
from awqc.machine.terminal import PlainConsole, console, echo, labelled

STEERING = "a\x1b]0;title\x07b\x9b31mc\rd\x7fe\u202ef\u2066g\u2028h\udc80i"
SHOWN = r"a\u001b]0;title\u0007b\u009b31mc\u000dd\u007fe\u202ef\u2066g\u2028h\udc80i"
ORDINARY = "größe\tπ 🙂 👩‍👩‍👧 عربى [/red] [bold]x[/] :smile: \\ \n"


def plain(**options: object) -> PlainConsole:
    return PlainConsole(file=io.StringIO(), markup=False, emoji=False, width=200, **options)  # type: ignore[arg-type]  # any options of rich


def written(out: PlainConsole) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_what_steers_is_shown_by_its_number() -> None:
    assert printable(STEERING) == SHOWN
    assert printable(ORDINARY) == ORDINARY
    assert printable("".join(map(chr, range(0xA0)))).isprintable() is False  # tab and newline stay
    assert json.loads(printable(json.dumps({"a": STEERING}, ensure_ascii=False))) == {"a": STEERING}


def test_echo(capsys: pytest.CaptureFixture[str]) -> None:
    echo(STEERING)
    echo(ORDINARY, err=True, nl=False)
    out, err = capsys.readouterr()
    assert out == SHOWN + "\n"
    assert err == ORDINARY


def test_a_console_prints_text_as_it_is() -> None:
    out = plain()
    out.print("[/red] [bold]x[/] :smile:")
    out.print(labelled("warning", "bold red", "[/] " + STEERING))
    stripped = SHOWN.replace(r"\u0007", "").replace(r"\u000d", "")  # by rich
    assert written(out).splitlines() == ["[/red] [bold]x[/] :smile:", f"warning: [/] {stripped}"]


def test_tables_and_styles() -> None:
    out = plain(force_terminal=True, color_system="standard")
    table = Table(box=None)
    table.add_column("[red]head[/]")
    table.add_row("[/x] " + STEERING)
    table.add_row(Text("ok", "red"))
    out.print(table, style="bold")
    text = written(out)
    assert "[red]head[/]" in text
    assert "[/x] a\\u001b]0;title" in text
    assert "\x1b[1;31mok" in text  # rich's own colours stay
    assert "\x1b]" not in text
    assert "\x07" not in text


def test_the_console_of_the_commands_is_such_a_one() -> None:
    assert isinstance(console(), PlainConsole)
    assert isinstance(console(stderr=True), PlainConsole)


def test_messages_of_errors_are_printable() -> None:
    for kind in (AwqcError, UsageError):
        assert str(kind(f"{STEERING}: [/red]")) == f"{SHOWN}: [/red]"


NAMES = ["[/red].pt", "[bold]x[red].pt", "a\x1b[2Jb.pt", "\x1b]0;t\x07.pt", "r\u202etp.exe.pt"]


def check(text: str) -> None:
    assert "Traceback" not in text
    assert not any(character in text for character in "\x1b\x07\u202e")


def test_names_of_files_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAMES[0]).parent.mkdir()
    torch.save(nn.Sequential(nn.Linear(8, 4)), NAMES[0])
    assert run(["compile", NAMES[0], "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "capturing [/red].pt" in err
    assert "would write" in out
    check(out + err)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("arguments", [["explain"], ["generate"], ["diff"], ["bench", "--no-such"]])
def test_names_in_errors(
    name: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"nonsense")
    given = [*arguments, name, *(["x"] if arguments[0] in ("generate", "diff") else [])]
    assert run(given) == 2
    out, err = capsys.readouterr()
    check(out + err)
    if arguments[0] in ("explain", "diff"):
        assert printable(name) in err


def test_tracebacks_are_printable() -> None:
    code = (
        "import sys, awqc.machine.terminal\n"
        "sys.excepthook = awqc.machine.terminal.print_traceback\n"
        "raise ValueError('x\\x1b[2J')"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "ValueError: x\\u001b[2J" in failed.stderr
    assert "\x1b" not in failed.stderr
