"""Small compiled folders used by the ecosystem's own libraries, beside ``awqc run`` on the same.

``python -m benchmarks.libraries [--python PYTHON] [--node FOLDER] [-o RESULTS]``: PYTHON is that
of an environment with ``transformers<4.58 optimum optimum-onnx onnxruntime sentence-transformers
fastembed pillow``; FOLDER has the npm package ``@huggingface/transformers`` in ``node_modules``,
which is used in Node and, where there is a Chromium, in a page of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import awqc
from awqc.running.runner import Runner
from benchmarks.folder_models import MODELS
from benchmarks.runtimes_browser import CLIENTS, find_browser, use_in_browser
from tests.media import write_images, write_speech
from tests.tiny_language_models import save_decoder, save_encoder, save_tokenizer

JAVASCRIPT, NODE, CHROMIUM = "transformers.js", "Node", "Chromium"
CAUSAL = "text-generation"
SECONDS = 300
"""For a page to answer."""
RESULTS = Path(__file__).parent / "results" / "libraries.json"
TOKENS, CLOSE, CLOSE_SHARE = 12, 1e-3, 1e-2
"""Tokens that are written for a sample; how far vectors may be apart, and shares of a class: images
are resized by another library."""
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
    """

    client: str
    packages: tuple[str, ...]
    save: Callable[[Path], object]
    inputs: Callable[[Path], Sequence[str]]


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
    "Optimum, ORTModelForSpeechSeq2Seq": Case(
        "speech", OPTIMUM, _of("automatic-speech-recognition/whisper"), _speech
    ),
}  # fmt: skip
CASES |= {
    f"{JAVASCRIPT} in {where}, {task}": Case(task, (), save, inputs)
    for where in (NODE, CHROMIUM)
    for task, save, inputs in (
        ("feature-extraction", sentence_encoder, lambda _: TEXTS),
        ("image-classification", _of("image-classification/vit"), _images),
        (CAUSAL, decoder, lambda _: TEXTS),
        ("text2text-generation", _of("text2text-generation/t5"), lambda _: T5_TEXTS),
        ("automatic-speech-recognition", _of("automatic-speech-recognition/whisper"), _speech),
    )
}

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


def use(case: Case, client: Client, layout: str) -> dict[str, Any]:
    """Compile the folder of ``case`` and let its library use it; what came of it.

    ``layout`` is that of the folder.
    """
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        case.save(base / "model")
        for name, arranged in {"out": "plain", "used": layout}.items():
            awqc.compile(
                base / "model", output_dir=base / name, effort="fast", bits=8, group_size=16,
                provider="cpu", num_samples=6, formats=("onnx",), layout=arranged,
            )  # fmt: skip
        inputs = list(case.inputs(base / "data"))
        config = json.loads((base / "model" / "config.json").read_text())
        job = {
            "client": case.client, "packages": case.packages, "folder": str(base / "used"),
            "inputs": inputs, "tokens": TOKENS, "width": config.get("hidden_size"),
        }  # fmt: skip
        result = client(job)
        if "error" in result:
            return {"agrees": False, **result}
        wanted = _said(base / "out", case, inputs)
        return {"versions": result.get("versions"), **_compared(result["outputs"], wanted)}


def _said(folder: Path, case: Case, inputs: Sequence[str]) -> list[Any]:
    """What awqc's own runners say of ``inputs``."""
    if case.client == CAUSAL:
        made = [awqc.generate(folder, text, max_new_tokens=TOKENS) for text in inputs]
        return ["".join(pieces).strip() for pieces in made]
    runner = Runner(folder, max_new_tokens=TOKENS)
    return [answer.content for _, answer in runner.answer(inputs)]


def _compared(found: list[Any], wanted: list[Any]) -> dict[str, Any]:
    """Whether a library says what awqc says: texts, classes with their shares, or vectors."""
    if isinstance(wanted[0], str):
        same = sum(now == was for now, was in zip(found, wanted, strict=True))
        return {"agrees": same == len(wanted), "same_texts": same, "samples": len(wanted)}
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
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    for name, case in CASES.items():
        client = _client(name, arguments.python, arguments.node)
        if client is None or arguments.only not in name:
            continue
        found = use(case, client, JAVASCRIPT if name.startswith(JAVASCRIPT) else "plain")
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
