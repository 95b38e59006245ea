"""A folder of an encoder-decoder, compiled and used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import awqc
from awqc.artifacts.work_folder import WorkFolder
from awqc.cli import run
from awqc.errors import Note, UsageError
from awqc.executor import segments
from awqc.front_door import plan_compile
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.generating_parts import capture_parts
from awqc.huggingface.samples import Sample
from awqc.huggingface.tasks import find_task
from awqc.options import parse_options
from awqc.running.runner import Runner
from awqc.runtimes.encoder_decoder import EncoderDecoder
from awqc.runtimes.text_of import TextOf
from awqc.whole.folder_files import write_encoder_decoder, write_layout
from awqc.whole.plans import WholePlan
from awqc.whole.swapped import swapped
from benchmarks.folder_models import MODELS
from benchmarks.kills import content

CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 6,
}  # fmt: skip
TEXT = "t5 t9 t44 t12"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models") / "bart"
    return folder, MODELS["text2text-generation/bart"].save(folder)


@pytest.fixture(scope="module")
def compiled(
    source: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[awqc.CompiledBundle, Path]:
    folder = tmp_path_factory.mktemp("compiled") / "out"
    result = awqc.compile(source[0], output_dir=folder, formats=("onnx", "ort"), **CHEAP)
    assert isinstance(result, awqc.CompiledBundle)
    return result, folder


def test_the_folder_is_laid_out_as_runners_know_it(
    compiled: tuple[awqc.CompiledBundle, Path],
) -> None:
    folder = compiled[1]
    names = {path.name for path in folder.iterdir()}
    assert {
        "encoder_model.onnx", "decoder_model_merged.onnx", "config.json", "tokenizer.json",
        "generation_config.json", "report.json", "session.json", "ort", "parts",
    } <= names  # fmt: skip
    assert {path.name for path in (folder / "parts").iterdir()} == {"encoder", "cross", "decoder"}
    assert not list((folder / "parts").rglob("*.onnx"))  # no weight is there twice


@pytest.mark.parametrize("place", [".", "ort"])
def test_the_models_run_in_onnxruntime_alone(
    place: str, compiled: tuple[awqc.CompiledBundle, Path], source: tuple[Path, Any]
) -> None:
    where = compiled[1] / place
    encoder, decoder = (
        ort.InferenceSession(where / name)
        for name in ("encoder_model.onnx", "decoder_model_merged.onnx")
    )
    ids, tokens = np.array([[0, 9, 30, 2]]), np.array([[2, 8, 17]])
    mask = np.ones_like(ids)
    (states,) = encoder.run(None, {"input_ids": ids, "attention_mask": mask})
    feeds = {
        "input_ids": tokens, "encoder_attention_mask": mask, "encoder_hidden_states": states,
        "use_cache_branch": np.array([False]),
    }  # fmt: skip
    for spec in decoder.get_inputs():
        if spec.name not in feeds:
            feeds[spec.name] = np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
    logits = decoder.run(["logits"], feeds)[0]
    with torch.no_grad():
        wanted = source[1](
            input_ids=torch.from_numpy(ids), decoder_input_ids=torch.from_numpy(tokens)
        ).logits.numpy()
    assert np.linalg.norm(logits - wanted) / np.linalg.norm(wanted) < 0.05  # 8-bit noise


def test_one_that_was_interrupted_goes_on_with_all_parts(
    source: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with those that were finished: they are kept until the whole is in place."""
    monkeypatch.setattr(segments, "SMALLEST", 1)
    quick = {**CHEAP, "formats": "onnx"}
    awqc.compile(source[0], output_dir=tmp_path / "plain", **quick)
    add = WorkFolder.add

    def interrupted(folder: WorkFolder, name: str, tree: Any) -> None:
        if folder.path.name.endswith("-decoder") and name == "segment-0002":
            raise KeyboardInterrupt
        add(folder, name, tree)

    monkeypatch.setattr(WorkFolder, "add", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        awqc.compile(source[0], output_dir=tmp_path / "out", **quick)
    monkeypatch.setattr(WorkFolder, "add", add)
    kept = {"encoder", "decoder"}  # what is between them is one segment
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"plain", *(f".out.awqc-work-{part}" for part in kept)}
    assert len(caught.value.__notes__) == len(kept)
    said: list[str] = []
    awqc.compile(
        source[0], output_dir=tmp_path / "out", notify=lambda note: said.append(str(note)), **quick
    )
    assert {text.partition(":")[0] for text in said if "going on after" in text} == kept
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "out"}
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def test_the_report_tells_of_parts_and_of_the_whole(
    compiled: tuple[awqc.CompiledBundle, Path],
) -> None:
    result, folder = compiled
    report = json.loads((folder / "report.json").read_text())
    assert report == result.report
    assert list(report["parts"]) == ["encoder", "cross", "decoder"]
    assert report["verify"]["decoder.logits"]["rel"] < 0.05
    made = report["generated"]
    assert made["samples"] == 1
    assert 0 <= made["word_error_rate"] <= 1
    assert made["form"] == "ort"
    assert {"source": "encoder.last_hidden_state", "target": "cross.encoder_hidden_states"} in (
        report["wiring"]
    )


def test_a_plan_foresees_the_parts_and_their_batches(
    compiled: tuple[awqc.CompiledBundle, Path],
    source: tuple[Path, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_compile(source[0], None, parse_options(**CHEAP))
    assert isinstance(plan, WholePlan)
    parts = compiled[0].report["parts"]
    assert {name: each.forecast.batches for name, each in plan.parts.items()} == {
        name: part["calibration"]["batches"] for name, part in parts.items()
    }
    assert plan.fits
    assert plan.peak >= max(each.forecast.peak(each.bounds) for each in plan.parts.values())
    assert plan.total_seconds > plan.seconds > 0
    small = replace(plan, recorded=plan.limit)
    assert not small.fits
    assert "fewer samples" in small.told()
    assert run(["plan", str(source[0]), "--num-samples", "6", "--memory", "1MB"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "encoder: " in told
    assert "--memory leaves 1 MB" in told
    assert "together: " in told
    assert run(["plan", str(source[0]), "--num-samples", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["parts"]) == ["encoder", "cross", "decoder"]
    assert run(["plan", str(source[0]), "--num-samples", "1"]) == 2
    assert "give two at least" in capsys.readouterr().err


def test_its_tokens_are_those_of_generate_with_the_compiled_parts(
    compiled: tuple[awqc.CompiledBundle, Path], source: tuple[Path, Any]
) -> None:
    folder = HFFolder.at(source[0])
    task = find_task(folder.config(), None, where="")
    parts = capture_parts(Generating.load(folder, task))
    generating = parts.generating
    sample = Sample("a text", text=TEXT)
    inputs = generating.inputs([sample])
    with swapped(parts, EncoderDecoder(compiled[1])):
        wanted = generating.generate(inputs, 10, 10)[0].tolist()  # none of them ends the text
    feeds = {name: value.numpy() for name, value in inputs.items()}
    text = TextOf(compiled[1])
    usual = list(text.tokens(feeds, max_new_tokens=10))
    text.settings = replace(text.settings, suppressed=tuple(text.settings.ends))
    made = list(text.tokens(feeds, max_new_tokens=10))
    assert made[:9] == wanted[1:10]  # the last one is forced to end
    ((_, answer),) = Runner(compiled[1], max_new_tokens=10).answer([TEXT])
    assert answer.text == generating.decode(usual)


def test_a_folder_of_one_form_alone_runs(
    compiled: tuple[awqc.CompiledBundle, Path], source: tuple[Path, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, part in compiled[0].parts.items():
        shutil.copytree(part.folder / "ort", tmp_path / name / "ort")
    places = {name: tmp_path / name for name in compiled[0].parts}
    write_layout(places, HFFolder.at(source[0]), out, write_encoder_decoder)
    assert not (out / "encoder_model.onnx").exists()
    (found,), (wanted,) = (
        list(Runner(folder, max_new_tokens=5).answer([TEXT])) for folder in (out, compiled[1])
    )
    assert found[1].text == wanted[1].text


def test_what_is_for_one_graph_is_refused(source: tuple[Path, Any]) -> None:
    with pytest.raises(UsageError, match="the format awq is for models of one graph"):
        awqc.compile(source[0], formats=("awq",))
    with pytest.raises(UsageError, match="observe"):
        awqc.compile(source[0], observe=lambda *_: None)


def test_data_of_another_kind_is_refused(source: tuple[Path, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 3), np.float32))
    with pytest.raises(UsageError, match="reads text: give files of it"):
        awqc.compile(source[0], calib=tmp_path / "data.npz", **CHEAP)


def test_lines_of_a_file_are_samples(source: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(f"t{n} t{n + 1} t{n + 2}" for n in range(9)))
    notes: list[Note] = []
    result = awqc.compile(
        source[0], calib=tmp_path / "lines.txt", notify=notes.append,
        **{**CHEAP, "formats": ("onnx",), "num_samples": 3},
    )  # fmt: skip
    assert any("3 of 9 samples are used" in note.text for note in notes)
    assert result.report["generated"]["samples"] == 1
