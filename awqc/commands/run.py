"""``awqc run``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from awqc.commands.declared import declared


@click.command("run")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR"
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…")
@declared("task", "Task of the model, where it is not recognised.")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="Of a text, where to stop at the latest."
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Of denoising, where images are made of texts."
)
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where such images, or sounds, are written; of one sound also a file, *.wav.  "
    "[default: where you are]",
)
@click.option("--language", help="Spoken or written language, by its code, where a model asks.")
@declared("provider", "Where onnxruntime runs.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each input.")
def command(
    folder: Path,
    inputs: tuple[str, ...],
    task: str | None,
    max_new_tokens: int | None,
    steps: int | None,
    output_dir: Path,
    language: str | None,
    provider: str,
    as_json: bool,
) -> None:
    """Use a compiled Hugging Face model: transcribe, translate, classify, embed.

    INPUT is a file of the kind that the model reads (audio, an image), or for a model of text a
    text, or a file with one in each line. For a model of images and text it is an image, and the
    text behind it; for one that compares images with texts, some of both: which text fits, or, of
    one kind alone, embeddings; for a diffusion pipeline a text, of which an image is made (by
    diffusers' scheduler); for a model that speaks a text, of which a file of sound is made. The
    model runs in onnxruntime; its own processor makes its inputs.

    \b
    Examples:
      awqc run whisper-base-awq speech.wav
      awqc run vit-awq cat.jpg dog.jpg
      awqc run llava-awq cat.jpg "What is on the sofa?"
      awqc run clip-awq cat.jpg "a cat" "a dog"
      awqc run t5-small-awq "translate English to German: Good morning."
      awqc run minilm-awq lines.txt --json
      awqc run stable-diffusion-awq "a lighthouse at dusk" -o images
      awqc run vits-awq "Good morning." -o morning.wav
    """
    from awqc.huggingface.diffusion import MODEL_INDEX
    from awqc.machine.terminal import console, echo, labelled
    from awqc.running.pictures import Pictures
    from awqc.running.runner import Runner
    from awqc.running.speech import Speech, speaks
    from awqc.runtimes.onnxruntime import resolve_provider

    device = resolve_provider(provider)
    runner: Runner | Pictures | Speech
    if (folder / MODEL_INDEX).is_file():
        runner = Pictures(folder, output_dir, device, steps)
    elif speaks(folder):
        runner = Speech(folder, output_dir, device, max_new_tokens)
    else:
        runner = Runner(
            folder,
            task=task,
            provider=device,
            max_new_tokens=max_new_tokens,
            language=language,
        )
    for source, answer in runner.answer(inputs):
        if as_json:
            echo(json.dumps({"input": source, "output": answer.content}))
        else:
            echo(answer.text if len(inputs) == 1 else f"{source}: {answer.text}")
    for note in () if isinstance(runner, Pictures) else runner.notes:
        console(stderr=True).print(labelled("note", "cyan", note))
