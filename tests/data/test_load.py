"""One loader of data: every kind of file, its name in upper and lower case, for every command."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import awqc
from awqc.cli import run
from awqc.data.calibration import CalibrationData, from_mapping
from awqc.data.load import DataSource
from awqc.errors import CalibrationError, UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.tokens import token_batch
from awqc.program import Program
from tests.tiny import captured, inputs
from tests.tiny_language_models import save_decoder, save_tokenizer

WORDS = " ".join(f"w{4 + index % 100}" for index in range(600))
X = inputs("mlp", batch=20)
ARRAYS: dict[str, Callable[[Path], Any]] = {
    ".npz": lambda path: write_npz(path),
    ".safetensors": lambda path: save_file({"input": X}, path),
    ".pt": lambda path: torch.save({"input": X}, path),
    "": lambda path: write_npz(path),
}
TEXTS = {".txt": WORDS, ".md": WORDS, ".jsonl": json.dumps({"text": WORDS})}


def write_npz(path: Path) -> None:
    """Under just this name; NumPy adds a suffix to names that have none."""
    with path.open("wb") as file:
        np.savez(file, input=X.numpy())


def both_cases(suffixes: Any) -> list[str]:
    return [form for suffix in suffixes for form in dict.fromkeys((suffix, suffix.upper()))]


@pytest.fixture(scope="module")
def mlp() -> Program:
    return captured("mlp")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder's folder ``source``, compiled from Python with a ``.MD`` into ``out``; texts."""
    folder = tmp_path_factory.mktemp("load")
    save_decoder("llama", folder / "source", num_hidden_layers=1)
    save_tokenizer(folder / "source")
    for suffix in both_cases(TEXTS):
        (folder / f"text{suffix}").write_text(TEXTS[suffix.lower()])
    awqc.compile(
        folder / "source", calib=folder / "text.MD", output_dir=folder / "out", num_samples=4,
        seq_len=16, effort="fast", formats=("onnx", "pt2"), provider="cpu",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def decoder(work: Path) -> Program:
    return load_folder(work / "source")


def rows(data: CalibrationData) -> int:
    return sum(batch["input"].shape[0] for batch in (*data.batches, *data.held_out))


@pytest.mark.parametrize(("fit", "sizes"), [(1, {1}), (2, {2}), (100, {4})])
def test_no_batch_of_tokens_makes_more_logits_than_fit(
    fit: int, sizes: set[int], decoder: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = decoder.parameters()["lm_head.weight"].shape[0]
    monkeypatch.setattr("awqc.data.batches.LARGEST_OUTPUT", fit * 4 * 16 * vocabulary + 1)
    ids = torch.ones(20, 16, dtype=torch.long)
    data = from_mapping({"input_ids": ids}, decoder)
    assert {len(batch["input_ids"]) for batch in (*data.batches, *data.held_out)} == sizes


@pytest.mark.parametrize("suffix", both_cases(ARRAYS))
def test_files_of_arrays_are_told_by_their_content(
    suffix: str, mlp: Program, tmp_path: Path
) -> None:
    path = tmp_path / f"data{suffix}"
    ARRAYS[suffix.lower()](path)
    source = DataSource.of(path)
    assert source.arrays is not None
    data = source.load(mlp)
    assert (rows(data), data.source) == (20, str(path))


@pytest.mark.parametrize("form", ["file", "arrays", "batches"])
def test_token_ids_alone_are_enough_for_a_decoder(
    form: str, decoder: Program, tmp_path: Path
) -> None:
    ids = torch.randint(4, 100, (10, 7))
    np.savez(tmp_path / "ids.npz", input_ids=ids.numpy())
    given: Any = {
        "file": tmp_path / "ids.npz",
        "arrays": {"input_ids": ids},
        "batches": [{"input_ids": ids[:5].int()}, {"input_ids": ids[5:].int()}],
    }[form]
    data = DataSource.of(given).load(decoder)
    for batch in (*data.batches, *data.held_out):
        wanted = token_batch(decoder, batch["input_ids"])
        assert batch.keys() == wanted.keys()
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
        decoder.run(batch)
    told = "attention_mask, position_ids, empty caches: filled in"
    assert any(told in note for note in data.notes) == (form != "batches")


def test_positions_are_counted_over_a_mask_that_is_given(decoder: Program) -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    given = {"input_ids": torch.full((2, 4), 9), "attention_mask": mask}
    (batch,) = DataSource.of([given]).load(decoder).batches[:1]
    row = batch["position_ids"][0].tolist()
    assert row in ([0, 0, 0, 1], [0, 1, 2, 2])
    with pytest.raises(CalibrationError, match="there is no array for 'input_ids'"):
        DataSource.of({"attention_mask": mask}).load(decoder)


@pytest.mark.parametrize("suffix", both_cases(TEXTS))
def test_text_is_text_by_its_name(suffix: str, decoder: Program, work: Path) -> None:
    data = DataSource.of(f"{work}/text{suffix}").load(decoder, num_samples=3, seq_len=16)
    assert data.source == f"{work}/text{suffix}"
    ids = torch.cat([batch["input_ids"] for batch in data.batches])
    assert ids.flatten().tolist() == list(range(4, 52))


def test_every_command_takes_the_same_text(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compile did in `work`; that all take all suffixes follows from the next test."""
    text, source, out = (str(work / name) for name in ("text.MD", "source", "out"))
    assert run(["explain", source, "--calib", text, "--json"]) == 0
    assert run(["verify", out, "--calib", text, "--num-samples", "1"]) == 0
    short = ("--num-samples", "1", "--seq-len", "16")
    assert run(["eval", source, "--text", text, *short, "--json"]) == 0
    assert '"sequences": 1' in capsys.readouterr().out


def test_nothing_but_the_loader_decides_what_a_file_is() -> None:
    """Whatever reads data asks `DataSource`, or reads documents, whose kinds one module knows."""
    deciding = {"read_arrays", "is_text_file", "text_calibration", "synthetic", "from_arrays"}
    room = Path(awqc.__file__).parent
    for path in room.rglob("*.py"):
        if path.parent.name != "data":
            called = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not called & deciding, path


def test_what_python_may_give(mlp: Program) -> None:
    ready = DataSource.of({"input": X.numpy()}).load(mlp)
    assert DataSource.of(ready).load(mlp) is ready
    assert rows(ready) == rows(DataSource.of(X.split(4)).load(mlp)) == 20
    assert DataSource.of(None).load(mlp, num_samples=5).synthetic
    nested = DataSource.of({"input": {"deep": X}})
    assert nested.arrays is None
    with pytest.raises(CalibrationError, match=r"'input\.deep' is no input|'input_deep'"):
        nested.load(mlp)


def test_a_language_model_makes_text_up_where_it_has_a_tokenizer(
    decoder: Program, tmp_path: Path
) -> None:
    assert "made up itself" in DataSource().load(decoder, num_samples=2, seq_len=8).source
    save_decoder("llama", tmp_path, num_hidden_layers=1)
    assert "synthetic" in DataSource().load(load_folder(tmp_path), num_samples=2).source


def test_bad_combinations_are_refused(mlp: Program, work: Path) -> None:
    for name in ("nothing.npz", "nothing.TXT", "nothing"):
        with pytest.raises(UsageError, match="there is no such calibration file"):
            DataSource.of(work / name)
    with pytest.raises(UsageError, match=r"is text, which is for language models .* takes arrays"):
        DataSource.of(work / "text.MD").load(mlp)
    with pytest.raises(UsageError, match="seq_len is for language models that read text"):
        DataSource.of({"input": X}).load(mlp, seq_len=4)
    with pytest.raises(UsageError, match="calib is a int"):
        DataSource.of(7).load(mlp)  # type: ignore[arg-type]  # 7 is what is refused


def test_no_suffix_is_compared_with_regard_to_case() -> None:
    """Wherever the package asks for a suffix, it asks for it in lower case."""
    for path in Path(awqc.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            bare = [part for part in parts if isinstance(part, ast.Attribute)
                    and part.attr == "suffix"]  # fmt: skip
            assert not bare, f"{path}:{node.lineno}"  # type: ignore[attr-defined]  # a comparison has a line
