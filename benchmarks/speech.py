"""Whisper base: words that it gets wrong, in float and compiled.

    python -m benchmarks.speech FOLDER --calib SPEECH --test SPEECH

A folder of speech holds ``.wav`` files and ``text.txt``, with a line for each in their order.
`python -m benchmarks.speech --speak TEXT FOLDER` makes one with espeak-ng, in several voices.
Every method is compiled on the same data; all transcribe the test files greedily, the float model
by its ``generate``, compiled ones by awqc's own runner in onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "speech.json"
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m3", "en-us+m5", "en-gb-scotland")
FLOAT = "float"
MOST = 200
"""Tokens of a transcript at most."""
METHODS: dict[str, list[str]] = {
    "nearest": ["--effort", "fast", "--pipeline", "canonicalize,quantize-weights"],
    "default": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--speak", type=Path, nargs=2, metavar=("TEXT", "FOLDER"))
    parser.add_argument("--calib", type=Path)
    parser.add_argument("--test", type=Path)
    names = [FLOAT, *METHODS]
    parser.add_argument("--methods", nargs="*", choices=names, default=names)
    chosen = parser.parse_args()
    if chosen.speak:
        speak(*chosen.speak)
        return
    wanted = (chosen.test / "text.txt").read_text().splitlines()
    files = sorted(chosen.test.glob("*.wav"))
    for name in chosen.methods:
        if name == FLOAT:
            found = {"word_error_rate": rate(transcribe_float(chosen.model, files), wanted)}
        else:
            found = measure(chosen, METHODS[name], files, wanted)
        print(name, json.dumps(found), flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        results |= {"sentences": len(wanted), name: found}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def speak(text: Path, folder: Path) -> None:
    """Speak each line of ``text`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for line in text.read_text().splitlines() if line.strip()]
    for index, line in enumerate(lines):
        voice = VOICES[index % len(VOICES)]
        command = ["espeak-ng", "-v", voice, "-s", "150", "-w", str(folder / f"{index:03}.wav")]
        subprocess.run([*command, "--stdin"], input=line.encode(), check=True)
    (folder / "text.txt").write_text("\n".join(lines) + "\n")


def rate(texts: list[str], wanted: list[str]) -> float:
    """Word error rate, without regard to case and punctuation."""
    from awqc.verify.words import word_error_rate

    pairs = ((_plain(text), _plain(one)) for text, one in zip(texts, wanted, strict=True))
    return round(word_error_rate(pairs), 5)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ']", " ", text.lower()).split())


def transcribe_float(model: Path, files: list[Path]) -> list[str]:
    """The float model's own transcripts."""
    from awqc.data.audio_files import read_audio
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.generating import Generating
    from awqc.huggingface.samples import Sample
    from awqc.huggingface.tasks import find_task
    from awqc.recording.remembered import remembering

    folder = HFFolder.at(model)
    generating = Generating.load(folder, find_task(folder.config(), None, where=str(model)))
    texts = []
    with remembering(generating.model.get_encoder()):
        for file in files:
            audio, _ = read_audio(file, generating.processor.rate)
            inputs = generating.inputs([Sample(str(file), audio=audio)])
            texts.append(generating.decode(generating.generate(inputs, MOST)[0].tolist()))
    return texts


def measure(
    chosen: argparse.Namespace, options: list[str], files: list[Path], wanted: list[str]
) -> dict[str, Any]:
    """Compile, transcribe with what came of it, and weigh it."""
    from awqc.running.runner import Runner

    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        command = [sys.executable, "-m", "awqc", "compile", str(chosen.model), "-o", str(out)]
        command += ["--calib", str(chosen.calib), "--formats", "ort", "--provider", "cpu"]
        child = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"awqc compile ended with {child.returncode}")
        runner = Runner(out / "ort", max_new_tokens=MOST)
        texts = [answer.text for _, answer in runner.answer([str(file) for file in files])]
        size = sum(path.stat().st_size for path in (out / "ort").glob("*.onnx*"))
        report = json.loads((out / "report.json").read_text())
        return {
            "word_error_rate": rate(texts, wanted),
            "against_float": report["generated"]["word_error_rate"],
            "megabytes": round(size / 1e6, 1),
            "compile_cpu_s": round(used.ru_utime + used.ru_stime),
            "compile_peak_mb": round(used.ru_maxrss / 1e3),
        }


if __name__ == "__main__":
    main()
