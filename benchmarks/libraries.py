"""Small compiled folders used by the ecosystem's own libraries, beside ``awqc run`` on the same.

``python -m benchmarks.libraries [--python PYTHON] [--node FOLDER] [-o RESULTS]``: PYTHON is that
of an environment with ``transformers<4.58 optimum optimum-onnx onnxruntime sentence-transformers
fastembed pillow``; FOLDER has the npm package ``@huggingface/transformers`` in ``node_modules``,
which is used in Node and, where there is a Chromium, in a page of its own.

``--folder FOLDER --inputs FILE… [--prompt TEXT]``: what transcribes uses what a real model was
compiled into, with the format onnx, on audio of 16 kHz. TEXT are the words that it begins with,
which onnxruntime-genai does not know by itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import awqc
from awqc.export.layouts import GENAI_LIBRARY, PLAIN, FolderLayout
from awqc.running.runner import Runner
from benchmarks.folder_models import MODELS
from benchmarks.runtimes_browser import CLIENTS, find_browser, use_in_browser
from tests.media import write_images, write_speech
from tests.tiny_language_models import save_decoder, save_encoder, save_tokenizer

JAVASCRIPT, NODE, CHROMIUM = "transformers.js", "Node", "Chromium"
SPEECH = "automatic-speech-recognition"
CAUSAL = "text-generation"
SECONDS = 300
"""For a page to answer."""
RESULTS = Path(__file__).parent / "results" / "libraries.json"
TOKENS, MOST_TOKENS = 12, 100
"""That are written for a sample, of a small random model and of a real one."""
CLOSE, CLOSE_SHARE = 1e-3, 1e-2
"""How far vectors may be apart, and shares of a class: images are resized by another library."""

OPTIMUM_SPEECH = "Optimum, ORTModelForSpeechSeq2Seq"
OPTIMUM = ("optimum", "optimum-onnx", "transformers", "onnxruntime")
TEXTS = ["w5 w6 w7", "w9 w30 w31 w12 w8"]
T5_TEXTS = ["t5 t6 t7", "t9 t30 t31 t12"]


@dataclass(frozen=True)
class Case:
    """A folder, and who uses it.

    Attributes:
        client: a function of the client; of transformers.js the task.
        packages: whose versions are told.
        save: writes the model into a folder.
        inputs: what it is used on, files in a folder or texts.
        layout: how the folder is arranged for the library.
    """

    client: str
    packages: tuple[str, ...]
    save: Callable[[Path], object]
    inputs: Callable[[Path], Sequence[str]]
    layout: str = PLAIN


def sentence_encoder(folder: Path) -> None:
    """Write an encoder with mean pooling and normalisation."""
    save_encoder("bert", folder)
    save_tokenizer(folder)
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "unk_token": "<unk>"})
    )
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "",
         "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def decoder(folder: Path) -> None:
    """Write a decoder with a cache."""
    save_decoder("llama", folder)
    save_tokenizer(folder)


def _of(name: str) -> Callable[[Path], object]:
    return lambda folder: MODELS[name].save(folder)


def _images(folder: Path) -> Sequence[str]:
    return [str(path) for path in write_images(folder, 4)]


def _speech(folder: Path) -> Sequence[str]:
    return [str(path) for path in write_speech(folder, 4)]


CASES = {
    "sentence-transformers, onnx": Case(
        "sentence_transformers", ("sentence-transformers", *OPTIMUM), sentence_encoder,
        lambda _: TEXTS,
    ),
    "fastembed, custom model": Case(
        "fastembed", ("fastembed", "onnxruntime"), sentence_encoder, lambda _: TEXTS
    ),
    "Optimum, ORTModelForFeatureExtraction": Case(
        "feature_extraction", OPTIMUM, sentence_encoder, lambda _: TEXTS
    ),
    "Optimum, ORTModelForImageClassification": Case(
        "image_classification", OPTIMUM, _of("image-classification/vit"), _images
    ),
    "Optimum, ORTModelForSeq2SeqLM": Case(
        "seq2seq", OPTIMUM, _of("text2text-generation/t5"),
        lambda _: T5_TEXTS,
    ),
    OPTIMUM_SPEECH: Case(
        "speech", OPTIMUM, _of(f"{SPEECH}/whisper"), _speech
    ),
}  # fmt: skip
CASES |= {
    f"{JAVASCRIPT} in {where}, {task}": Case(task, (), save, inputs, layout=JAVASCRIPT)
    for where in (NODE, CHROMIUM)
    for task, save, inputs in (
        ("feature-extraction", sentence_encoder, lambda _: TEXTS),
        ("image-classification", _of("image-classification/vit"), _images),
        (CAUSAL, decoder, lambda _: TEXTS),
        ("text2text-generation", _of("text2text-generation/t5"), lambda _: T5_TEXTS),
        (SPEECH, _of(f"{SPEECH}/whisper"), _speech),
    )
}


def real_cases(name: str) -> dict[str, Case]:
    """The cases that transcribe, and one of onnxruntime-genai, with the model ``name``."""
    cases = {each: case for each, case in CASES.items() if case.client in ("speech", SPEECH)}
    cases[GENAI_LIBRARY] = replace(
        CASES[OPTIMUM_SPEECH],
        client="genai_speech",
        packages=(GENAI_LIBRARY, "onnxruntime"),
        layout=GENAI_LIBRARY,
    )
    return {f"{each}, {name}": case for each, case in cases.items()}


Client = Callable[[dict[str, Any]], dict[str, Any]]
"""Does a job; gives ``outputs``, or an ``error``."""


def process(*command: str | Path, behind: Sequence[str | Path] = ()) -> Client:
    """A client that ``command`` runs, with files of the job and of its result, and ``behind``."""

    def run(job: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as made:
            asked, answered = Path(made) / "job.json", Path(made) / "result.json"
            asked.write_text(json.dumps(job))
            done = subprocess.run(
                [*command, asked, answered, *behind], capture_output=True, text=True, check=False
            )
            if not answered.is_file():
                return {"error": done.stderr.strip().splitlines()[-1:]}
            result: dict[str, Any] = json.loads(answered.read_text())
            return result

    return run


def use(
    case: Case, client: Client, folder: Path, inputs: Sequence[str], **told: Any
) -> dict[str, Any]:
    """Let the library of ``case`` use what was compiled into ``folder``; what came of it.

    ``told`` goes with the job.
    """
    with tempfile.TemporaryDirectory() as made:
        used = Path(made) / "used"
        shutil.copytree(folder, used)
        FolderLayout(case.layout).apply(used)
        config = json.loads((folder / "config.json").read_text())
        job = {
            "client": case.client, "packages": case.packages, "folder": str(used),
            "inputs": inputs, "width": config.get("hidden_size"), **told,
        }  # fmt: skip
        result = client(job)
        if "error" in result:
            return {"agrees": False, **result}
        wanted = _said(folder, case, inputs, told["tokens"])
        return {"versions": result.get("versions"), **_compared(result["outputs"], wanted)}


def compile_case(case: Case, base: Path) -> Path:
    """The compiled folder of ``case``, in the plain layout."""
    case.save(base / "model")
    awqc.compile(
        base / "model", output_dir=base / "out", effort="fast", bits=8, group_size=16,
        provider="cpu", num_samples=6, formats=("onnx",),
    )  # fmt: skip
    return base / "out"


def _said(folder: Path, case: Case, inputs: Sequence[str], tokens: int) -> list[Any]:
    """What awqc's own runners say of ``inputs``."""
    if case.client == CAUSAL:
        made = [awqc.generate(folder, text, max_new_tokens=tokens) for text in inputs]
        return ["".join(pieces).strip() for pieces in made]
    runner = Runner(folder, max_new_tokens=tokens)
    return [answer.content for _, answer in runner.answer(inputs)]


def _compared(found: list[Any], wanted: list[Any]) -> dict[str, Any]:
    """Whether a library says what awqc says: texts, classes with their shares, or vectors."""
    if isinstance(wanted[0], str):
        other = [(now, was) for now, was in zip(found, wanted, strict=True) if now != was]
        same = {"same_texts": len(wanted) - len(other), "samples": len(wanted)}
        differ = {"differ": [{"library": now, "awqc": was} for now, was in other]} if other else {}
        return {"agrees": not other, **same, **differ}
    if isinstance(wanted[0][0], dict):
        best = [(each[0]["score"], each[0]["label"]) for each in wanted]
        gap = max(abs(now[0] - was[0]) for now, was in zip(found, best, strict=True))
        labels = all(now[1] == was[1] for now, was in zip(found, best, strict=True))
        return {"agrees": labels and gap < CLOSE_SHARE, "largest_gap": gap, "samples": len(wanted)}
    gap = float(np.abs(np.array(found) - np.array(wanted)).max())
    return {"agrees": gap < CLOSE, "largest_gap": gap, "samples": len(wanted)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="of an environment with the libraries")
    parser.add_argument("--node", type=Path, help="a folder with node_modules")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--folder", type=Path, help="a compiled one of a model that transcribes")
    parser.add_argument("--inputs", nargs="+", default=[], help="audio for it, of 16 kHz")
    parser.add_argument("--prompt", default="", help="what it begins with")
    arguments = parser.parse_args()
    real: Path | None = arguments.folder
    cases = CASES if real is None else real_cases(real.name)
    told = {"tokens": TOKENS if real is None else MOST_TOKENS, "prompt": arguments.prompt}
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    for name, case in cases.items():
        client = _client(name, arguments.python, arguments.node)
        if client is None or arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as made:
            base = Path(made)
            folder = compile_case(case, base) if real is None else real
            inputs = arguments.inputs or list(case.inputs(base / "data"))
            found = use(case, client, folder, inputs, **told)
        if name.startswith(JAVASCRIPT):
            found["versions"] = {"@huggingface/transformers": npm_version(arguments.node)}
        results[name] = found
        print(name, json.dumps(found), flush=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


def _client(name: str, python: str | None, node: Path | None) -> Client | None:
    """What does the jobs of the case ``name``; None: it is not at hand."""
    if not name.startswith(JAVASCRIPT):
        return process(python, CLIENTS / "libraries.py") if python else None
    if node is None:
        return None
    modules = node / "node_modules"
    if NODE in name:
        package = modules / "@huggingface" / "transformers"
        return process("node", CLIENTS / "transformers_js.mjs", behind=[package])
    return partial(use_in_browser, modules=modules, timeout=SECONDS) if find_browser() else None


def npm_version(node: Path) -> str:
    """Of transformers.js."""
    path = node / "node_modules" / "@huggingface" / "transformers" / "package.json"
    return str(json.loads(path.read_text())["version"])


if __name__ == "__main__":
    main()
