"""The models that `benchmarks.runtimes` runs: a decoder with a cache, and a convolutional net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from awqc.compiler import compile_graph
from awqc.data.calibration import CalibrationData
from awqc.huggingface.capture import load_folder
from awqc.huggingface.tokens import token_batch
from awqc.program import Batch, Program

PROMPT, VOCABULARY = 6, 128
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Case:
    """A compiled model.

    Attributes:
        name: for the table.
        folder: what the compile wrote.
        batches: what it is run on.
        outputs: names of the outputs.
    """

    name: str
    folder: Path
    batches: Sequence[Batch]
    outputs: tuple[str, ...]


class ConvNet(nn.Module):
    """Convolutions, a pool and two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(1024, 128), nn.GELU(), nn.Linear(128, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(batch, 10)``."""
        logits = self.head(self.features(image).flatten(1))
        assert isinstance(logits, Tensor)
        return logits


def conv_case(folder: Path) -> Case:
    """An image in, logits out."""
    torch.manual_seed(0)
    compiled = compile_graph(
        ConvNet().eval(),
        (torch.randn(2, 3, 32, 32),),
        formats=("onnx", "ort", "pt2"),
        output_dir=folder,
        num_samples=8,
    )
    names = tuple(compiled.report["outputs"])
    return Case("conv net", folder, [{"image": torch.randn(n, 3, 32, 32)} for n in (2, 3)], names)


def decoder_case(folder: Path) -> Case:
    """A prompt with an empty past, and one more token with what it left as past."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=VOCABULARY, **SIZES, **HEADS)
    source = folder.with_name("decoder-float")
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    program = load_folder(source)
    ids = torch.randint(VOCABULARY, (10, 32))
    data = CalibrationData(
        (token_batch(program, ids[:8]),), (token_batch(program, ids[8:]),), "random tokens"
    )
    compile_graph(
        program,
        calib=data,
        formats=("onnx", "ort", "pt2", "compressed-tensors"),
        output_dir=folder,
        head_bits=0,
        embed_bits=0,
    )
    prompt = token_batch(program, ids[:2, :PROMPT])
    return Case("decoder", folder, [prompt, _next(program, prompt)], program.outputs)


def _next(program: Program, prompt: Batch) -> Batch:
    """One more token, after ``prompt``."""
    results = dict(zip(program.outputs, program.run(prompt), strict=True))
    step = token_batch(program, results["logits"][:, -1:].argmax(-1))
    step["attention_mask"] = torch.ones(2, PROMPT + 1, dtype=torch.long)
    step["position_ids"] = torch.full((2, 1), PROMPT)
    return step | {name: results[output] for name, output in program.states}
