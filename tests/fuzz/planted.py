"""Code planted in every file that a command reads, in every way that some loader would run it.

A case is a file of the corpus, a command that reads it, and a way to plant. The code makes the
file `MARK` where the command works; none may be there afterwards, and the command must end in a way
that `tests.fuzz.files` allows.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fuzz.damage import places_in
from tests.fuzz.files import CODES, READERS, copy_of, make_corpus, run_in
from tests.fuzz.ledger import Look
from tests.pt2.attacks import CODE, MARK, Evil

MODULE = "evil_module"
TEXTS = (
    CODE,
    f"{{{{ self.__init__.__globals__.__builtins__.exec({CODE!r}) }}}}",  # of a template
    f"!!python/object/apply:builtins.exec [{CODE!r}]",  # of YAML
    f"{MODULE}--{MODULE}.Evil",  # of transformers' table of a folder's own classes
    f"{MODULE}.Evil",
)
"""What some reader evaluates, renders or imports where it expects a word."""
TEXT_SHARE = 0.2
"""Of the words in a file that code stands in for; with all of them none would be read far."""
OWN_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")


@dataclass(frozen=True)
class Planting:
    """Code in ``file`` of the corpus, planted in a ``way`` and met by ``command``."""

    file: str
    command: str
    way: str


def a_pickle(_: bytes) -> bytes:
    """A pickle that runs the code when it is loaded."""
    return pickle.dumps(Evil())


def saved(_: bytes) -> bytes:
    """The same as torch saves it."""
    file = io.BytesIO()
    torch.save(Evil(), file)
    return file.getvalue()


def saved_as_before(_: bytes) -> bytes:
    """The same in torch's older format."""
    file = io.BytesIO()
    torch.save(Evil(), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def an_array(_: bytes) -> bytes:
    """An array of objects, which NumPy pickles."""
    file = io.BytesIO()
    np.savez(file, x=np.array([Evil()], dtype=object))
    return file.getvalue()


def a_member(content: bytes) -> bytes | None:
    """A pickle in place of one member of an archive; None where ``content`` is none."""
    if content[:2] != b"PK":
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    draw = random.Random(len(content))
    members[draw.choice(list(members))] = pickle.dumps(Evil())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def own_classes(content: bytes) -> bytes | None:
    """Classes of the folder's own, in JSON; None where ``content`` is none."""
    data = _object_in(content)
    if data is None:
        return None
    data["auto_map"] = dict.fromkeys(OWN_CLASSES, f"{MODULE}.Evil")
    return json.dumps(data).encode()


def texts(content: bytes) -> bytes | None:
    """Code in place of every text in JSON that is no key; None where ``content`` is none."""
    data = _object_in(content)
    if data is None:
        return None
    draw = random.Random(len(content))
    for holder, key in list(places_in(data)):
        if isinstance(holder[key], str) and draw.random() < TEXT_SHARE:
            holder[key] = draw.choice(TEXTS)
    return json.dumps(data).encode()


WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "a pickle": a_pickle,
    "a pickle of torch": saved,
    "a pickle of torch's older format": saved_as_before,
    "an array of objects": an_array,
    "a pickle in an archive": a_member,
    "classes of a folder's own": own_classes,
    "code in texts": texts,
}


def _object_in(content: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(content)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def plantings(corpus: Path) -> list[Planting]:
    """Every case: each file and command, in each way that fits the file."""
    return [
        Planting(file, command, way)
        for file, commands in READERS.items()
        for way, plant in WAYS.items()
        if plant((corpus / file).read_bytes()) is not None
        for command in commands
    ]


@contextmanager
def looking() -> Iterator[Look]:
    """Looks at the planting of a number."""
    with tempfile.TemporaryDirectory() as name:
        (corpus := Path(name) / "corpus").mkdir()
        cases = plantings(make_corpus(corpus))

        def look(number: int) -> list[str]:
            case = cases[number % len(cases)]
            code = check(case, corpus, Path(name) / "case")
            return [f"exit code {code}", f"way: {case.way}", f"file: {case.file}"]

        yield look


def check(case: Planting, corpus: Path, scratch: Path) -> int:
    """The exit code of ``case``.

    Raises:
        AssertionError: the code ran, or the command ended in no way that it may.
    """
    folder = copy_of(corpus, scratch)
    path = folder / case.file
    planted = WAYS[case.way](path.read_bytes())
    assert planted is not None, case
    path.write_bytes(planted)
    for place in {folder, path.parent}:
        (place / f"{MODULE}.py").write_text(f"{CODE}\nclass Evil: pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, MODULE, raising=False)
        code, text = run_in(folder, case.command)
        sys.modules.pop(MODULE, None)
    assert not [*folder.rglob(MARK), *Path.cwd().glob(MARK)], f"{case}: the code ran"
    assert code in CODES, f"{case}: exit code {code}\n{text}"
    assert "Traceback" not in text, f"{case}\n{text}"
    return code
