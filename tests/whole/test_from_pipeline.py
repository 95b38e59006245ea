"""A diffusion pipeline from its folder: compiled by parts, in the layout that Optimum loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

import awqc
from awqc.cli import run
from awqc.errors import CaptureError, UsageError, VerificationError
from awqc.front_door import plan_compile
from awqc.huggingface.diffusion import DiffusionFolder
from awqc.options import parse_options
from awqc.recording.entries import EntryPoint
from awqc.running.pictures import Pictures
from awqc.whole.from_pipeline import _images, pipeline_names
from awqc.whole.plans import WholePlan
from tests.tiny_pipelines import save_text_to_image, save_unconditional

CHEAP: dict[str, Any] = {
    "bits": 8, "group_size": 16, "effort": "fast", "provider": "cpu", "formats": ("onnx",),
    "num_samples": 5,
}  # fmt: skip


def test_parts_have_the_names_that_optimum_looks_for() -> None:
    one = {"0": torch.ones(1)}
    decoder = pipeline_names(EntryPoint("vae", "decode"), {"z": torch.ones(1)}, one)
    assert (decoder.part, decoder.inputs, decoder.outputs) == (
        "vae_decoder", {"z": "latent_sample"}, {"0": "sample"},
    )  # fmt: skip
    unet = pipeline_names(EntryPoint("unet"), {"sample": torch.ones(1)}, one)
    assert (unet.part, unet.outputs) == ("unet", {"0": "out_sample"})
    more = {"added_cond_kwargs.time_ids": torch.ones(1), "sample": torch.ones(1)}
    named = pipeline_names(EntryPoint("unet"), more, {"sample": torch.ones(1)})
    assert named.inputs["added_cond_kwargs.time_ids"] == "time_ids"
    assert named.outputs == {"sample": "out_sample"}


@pytest.mark.slow
def test_a_pipeline_without_text_is_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = save_unconditional(tmp_path / "made")
    given = ["--bits", "8", "--group-size", "16", "--effort", "fast", "--provider", "cpu"]
    more = ["--formats", "onnx", "--num-samples", "5", "-o", str(tmp_path / "out")]
    assert run(["compile", str(tmp_path / "made"), *given, *more]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["parts"]) == ["unet"]
    assert all(gap["psnr_db"] > 25 for gap in report["run"]["outputs"].values())
    plan = plan_compile(tmp_path / "made", None, parse_options(num_samples=5))
    assert isinstance(plan, WholePlan)
    (unet,) = plan.parts.values()
    assert unet.forecast.batches == report["parts"]["unet"]["calibration"]["batches"]
    session = ort.InferenceSession(str(tmp_path / "out" / "unet" / "model.onnx"))
    sample, step = torch.randn(4, 3, 16, 16), torch.tensor(7)
    feeds = {"sample": sample.numpy(), "timestep": step.numpy()}
    (found,) = session.run(["out_sample"], feeds)
    with torch.no_grad():
        wanted = pipeline.unet(sample, step).sample
    assert float((torch.from_numpy(found) - wanted).norm() / wanted.norm()) < 0.05
    assert run(["run", str(tmp_path / "out"), "a cat"]) == 2
    assert "makes images of nothing but noise" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_text_encoder_denoiser_and_decoder_are_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = save_text_to_image(tmp_path / "made")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\ntwo dogs\nthe sea\n")
    result: Any = awqc.compile(
        tmp_path / "made", calib=prompts, output_dir=tmp_path / "out", **CHEAP
    )
    assert list(result.parts) == ["text_encoder", "unet", "vae_decoder"]
    for part in result.parts:
        assert (tmp_path / "out" / part / "model.onnx").is_file()
        assert (tmp_path / "out" / part / "config.json").is_file()
    assert (tmp_path / "out" / "tokenizer" / "vocab.json").is_file()
    sizes = result.parts["unet"].report["notes"]
    assert any("must be multiples of" in note for note in sizes)
    assert all(gap["psnr_db"] > 25 for gap in result.report["run"]["outputs"].values())
    made = ["run", str(tmp_path / "out"), "a cat", "--steps", "3", "-o", str(tmp_path / "images")]
    assert run(made) == 0
    assert run(made) == 0
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["a-cat-2.png", "a-cat.png"]
    drawn = torch.Generator().manual_seed(0)
    (wanted,) = pipeline(prompt="a cat", num_inference_steps=3, generator=drawn).images
    with Image.open(tmp_path / "images" / "a-cat.png") as image:
        noise = np.asarray(wanted, np.float64) - np.asarray(image, np.float64)
    assert 10 * np.log10(255**2 / (noise**2).mean()) > 30
    pictures = Pictures(tmp_path / "out", tmp_path / "images")
    with pytest.raises(VerificationError, match="vae: is called, which was not compiled"):
        pictures._pipeline.vae(torch.ones(1, 3, 8, 8))
    capsys.readouterr()
    (tmp_path / "images").joinpath("file").write_text("no folder")
    assert run([*made[:-1], str(tmp_path / "images" / "file" / "inside")]) == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    del report["entries"]
    (tmp_path / "out" / "report.json").write_text(json.dumps(report))
    assert run(made) == 2
    assert "compile the pipeline anew" in " ".join(capsys.readouterr().err.split())


def test_data_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_unconditional(tmp_path / "made")
    with pytest.raises(UsageError, match="reads prompts: give"):
        awqc.compile(tmp_path / "made", calib={"x": torch.ones(3)}, **CHEAP)
    with pytest.raises(UsageError, match="the format gguf is for models of one graph"):
        awqc.compile(tmp_path / "made", **{**CHEAP, "formats": ("gguf",)})
    assert DiffusionFolder.at(tmp_path / "made").components()


def test_what_makes_no_images_is_refused() -> None:
    class Filmed(dict[str, object]):
        def __init__(self) -> None:
            self.frames = [1]

    with pytest.raises(CaptureError, match="films: Films makes frames, and of a folder"):
        _images(Filmed(), "Films", "films")
