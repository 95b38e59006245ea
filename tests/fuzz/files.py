"""Damaged files of every kind that awqc reads; no damage may end in anything but a message.

A case is named by a file of the corpus, a seed and the command that reads it. The damage knows
the structure: in JSON a value is exchanged, dropped, repeated or nested; in archives it happens
inside a member; elsewhere bytes are flipped, cut out or put in.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from awqc.artifacts.work_folder import WorkFolder
from awqc.cli import run
from awqc.executor import segments
from benchmarks.folder_models import MODELS
from tests.commands.test_cli import fill
from tests.fuzz.damage import damage
from tests.fuzz.ledger import Look
from tests.gguf_files import write_template
from tests.media import write_images
from tests.tiny_language_models import save_decoder, save_encoder, save_tokenizer

CODES = (0, 1, 2)
"""How a command may end: done, failed or refused, wrong usage."""

BOTH = "--effort fast --formats onnx,pt2 --num-samples 4 --provider cpu"
QUICK = "--effort fast --formats pt2 --num-samples 4 --provider cpu -o new"
ONNX = "--effort fast --formats onnx --num-samples 4 --provider cpu -o new"
LINES = f"--seq-len 8 {ONNX}"
TEXT = f"--calib calib.jsonl {LINES}"
EVAL = "eval lm --text calib.txt --num-samples 2 --seq-len 8 --provider cpu"
EVAL_CHATS = EVAL.replace("calib.txt", "chats.jsonl")
GENERATE = "generate lm w5 --max-new-tokens 2"

TRANSLATE = "run bart-out t5"
CLASSIFY = "run vit-out photos/1.png"
PHOTOS = ("photos", "photos/0.png")
GOES_ON = f"compile layers.pt --calib data.npz --work-dir work {QUICK}"

READERS: dict[str, tuple[str, ...]] = {
    "model.pt": (f"compile model.pt --calib data.npz {BOTH} -o new", "explain model.pt"),
    "model.pt2": (f"compile model.pt2 --calib data.npz {QUICK}", "explain model.pt2"),
    "data.npz": (f"compile model.pt --calib data.npz {QUICK}",),
    "data.pt": (f"compile model.pt --calib data.pt {QUICK}",),
    "data.safetensors": (f"compile model.pt --calib data.safetensors {QUICK}",),
    "calib.jsonl": (f"compile llama {TEXT}",),
    "chats.jsonl": (
        f"compile bert --calib chats.jsonl --seq-len 8 {ONNX}",
        EVAL_CHATS,
    ),
    "calib.txt": (
        f"compile bert --calib calib.txt {LINES}",
        EVAL,
    ),
    "llama/config.json": (f"compile llama {TEXT}", "explain llama"),
    "llama/generation_config.json": ("explain llama",),
    "llama/tokenizer.json": (f"compile llama {TEXT}",),
    "llama/tokenizer_config.json": (f"compile llama {TEXT}",),
    "llama/model.safetensors": ("explain llama",),
    "sharded/model.safetensors.index.json": ("explain sharded",),
    "sharded/model-00001-of-00006.safetensors": ("explain sharded",),
    "bin/pytorch_model.bin": ("explain bin",),
    "bert/config.json": ("explain bert", f"compile bert --calib calib.txt {LINES}"),
    "bert/tokenizer.json": (f"compile bert --calib calib.txt {LINES}",),
    "model.gguf": ("explain model.gguf",),
    "vit/config.json": ("explain vit",),
    "vit/preprocessor_config.json": ("explain vit", f"compile vit --calib photos {ONNX}"),
    "photos/0.png": (
        f"compile vit --calib photos {ONNX}",
        f"compile vit --calib photos/0.png {ONNX}",
    ),
    "records.jsonl": (f"compile vit --calib records.jsonl {ONNX}",),
    "lm/session.json": (GENERATE,),
    "lm/genai_config.json": (GENERATE,),
    "lm/config.json": (GENERATE, "chat lm"),
    "lm/generation_config.json": (GENERATE,),
    "lm/tokenizer.json": (GENERATE, EVAL),
    "lm/tokenizer_config.json": (
        GENERATE,
        EVAL_CHATS,
    ),
    "lm/report.json": (GENERATE, EVAL),
    "bart-out/config.json": (TRANSLATE,),
    "bart-out/generation_config.json": (TRANSLATE,),
    "bart-out/tokenizer_config.json": (TRANSLATE,),
    "bart-out/session.json": (TRANSLATE,),
    "bart-out/encoder_model.onnx": (TRANSLATE,),
    "vit-out/config.json": (CLASSIFY,),
    "vit-out/preprocessor_config.json": (CLASSIFY,),
    "vit-out/model.onnx": (CLASSIFY,),
    "out/report.json": ("verify out", "diff out other", f"compile model.pt {QUICK[:-6]} -o out"),
    "out/recipe.json": (f"compile model.pt --recipe out {QUICK}", "verify out"),
    "out/scales.safetensors": (f"compile model.pt --recipe out {QUICK}",),
    "out/model.onnx": ("verify out", f"compile model.pt --recipe out {QUICK}"),
    "out/model.pt2": ("verify out --verify-with torch-int4", "explain out/model.pt2"),
    "out/session.json": ("verify out",),
    "out/awqc-files.json": (f"compile model.pt --calib data.npz {QUICK[:-6]} -o out",),
    "stats": (f"compile model.pt --stats stats {QUICK}",),
    "work/compile.json": (GOES_ON,),
    "work/awqc-files.json": (GOES_ON,),
    "work/segment-0001.safetensors": (GOES_ON,),
    "work/cut-0002.safetensors": (GOES_ON,),
}
"""For each file of the corpus the commands that read it."""

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What moves a terminal, colors it, or tells it something."""

SLOW = ("compile llama", "compile bert", "compile vit")
SLOW_SHARE = 0.125
"""How often cases that take seconds are drawn, beside the others."""


@dataclass(frozen=True)
class Case:
    """One damage: ``file`` of the corpus, damaged as ``seed`` says and read by ``command``."""

    file: str
    command: str
    seed: int


def numbered(number: int) -> Case:
    """The case of a number."""
    draw = random.Random(number)
    while True:
        file = draw.choice(list(READERS))
        case = Case(file, draw.choice(READERS[file]), draw.randrange(2**30))
        if not case.command.startswith(SLOW) or draw.random() < SLOW_SHARE:
            return case


@contextmanager
def looking() -> Iterator[Look]:
    """Looks at the damaged file of a number."""
    with tempfile.TemporaryDirectory() as name:
        (corpus := Path(name) / "corpus").mkdir()
        make_corpus(corpus)

        def look(number: int) -> list[str]:
            case = numbered(number)
            return [f"exit code {check(case, corpus, Path(name) / 'case')}", f"file: {case.file}"]

        yield look


def make_corpus(folder: Path) -> Path:
    """Write one good file of each kind into ``folder``; returns it."""
    fill(folder)
    data = dict(np.load(folder / "data.npz"))
    tensors = {name: torch.from_numpy(array) for name, array in data.items()}
    torch.save(tensors, folder / "data.pt")
    save_file(tensors, folder / "data.safetensors")
    _make_texts(folder)
    _make_models(folder)
    made = f"--calib data.npz {BOTH}"
    for command in (f"compile model.pt {made} --stats stats -o out", "passes",
                    f"compile model.pt {made} --bits 8 -o other",
                    f"compile llama {TEXT[:-7]} -o lm",
                    f"compile vit --calib photos {ONNX[:-7]} -o vit-out",
                    f"compile bart --bits 8 --group-size 16 {ONNX[:-7]} -o bart-out",
                    TRANSLATE, CLASSIFY):  # fmt: skip
        code, text = run_in(folder, command)
        assert code == 0, text
    shutil.copy(folder / "out" / "model.pt2", folder / "model.pt2")
    _make_unfinished_work(folder)
    assert [file for file in READERS if not (folder / file).exists()] == []
    return folder


def _make_texts(folder: Path) -> None:
    texts = [" ".join(f"w{5 + n + i}" for i in range(30)) for n in range(8)]
    (folder / "calib.txt").write_text("\n\n".join(texts))
    rows: Any
    for name, rows in {
        "calib.jsonl": [{"text": text} for text in texts],
        "chats.jsonl": [{"messages": [{"role": "user", "content": text[:9]}]} for text in texts],
        "records.jsonl": [{"image": f"photos/{n}.png"} for n in range(4)],
    }.items():
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


def _make_models(folder: Path) -> None:
    model = save_decoder("llama", folder / "llama", num_hidden_layers=1)
    model.save_pretrained(folder / "sharded", max_shard_size="12KB")
    shutil.copytree(folder / "llama", folder / "bin")
    (folder / "bin" / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "bin" / "pytorch_model.bin")
    write_template(model, "llama", folder / "model.gguf", "F32")
    save_encoder("bert", folder / "bert")
    for name in ("llama", "bert"):
        save_tokenizer(folder / name)
    MODELS["image-classification/vit"].save(folder / "vit")
    MODELS["text2text-generation/bart"].save(folder / "bart")
    write_images(folder / "photos", 4)


def _make_unfinished_work(folder: Path) -> None:
    """What a compile leaves that is killed while it writes its second segment."""
    layers = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8)
    torch.save(nn.Sequential(*layers).eval(), folder / "layers.pt")
    child = os.fork()
    if child == 0:
        add = WorkFolder.add

        def killed(work: WorkFolder, name: str, tree: Any) -> None:
            if name == "segment-0002":
                os.kill(os.getpid(), signal.SIGKILL)
            add(work, name, tree)

        pytest.MonkeyPatch().setattr(WorkFolder, "add", killed)
        run_in(folder, GOES_ON)
        os._exit(1)
    os.waitpid(child, 0)


def check(case: Case, corpus: Path, scratch: Path) -> int:
    """The exit code of ``case``.

    Raises:
        AssertionError: the code is none of `CODES`, a traceback or a control character was shown,
            nothing was said of a failure, or it left something, or took something away.
    """
    folder = copy_of(corpus, scratch)
    path = folder / case.file
    path.write_bytes(damage(path.read_bytes(), random.Random(case.seed)))
    before = everything_in(folder)
    code, text = run_in(folder, case.command)
    assert code in CODES, f"{case}: exit code {code}\n{text}"
    assert "Traceback" not in text, f"{case}\n{text}"
    assert code == 0 or text.strip(), f"{case}: no message"
    assert not CONTROLS.search(text), f"{case}: a control character\n{text!r}"
    if code != 0:
        changed = before ^ everything_in(folder)
        assert not changed, f"{case}: {sorted(changed)}\n{text}"
    return code


def everything_in(folder: Path) -> set[tuple[str, int]]:
    """Each file with its time; of the work that a compile goes on with nothing."""
    return {
        (f"{path.relative_to(folder)}", path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir() and path.relative_to(folder).parts[0] != "work"
    }


def copy_of(corpus: Path, scratch: Path) -> Path:
    """A fresh copy of the corpus at ``scratch``."""
    shutil.rmtree(scratch, ignore_errors=True)
    return shutil.copytree(corpus, scratch)


def run_in(folder: Path, command: str) -> tuple[int, str]:
    """Exit code, and what was said, of a command in ``folder``."""
    out, err = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.MonkeyPatch.context() as m,
    ):
        if command == GOES_ON:
            m.setattr(segments, "SMALLEST", 1)
        code = run(command.split())
    return code, out.getvalue() + err.getvalue()
