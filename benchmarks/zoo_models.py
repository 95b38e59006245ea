"""Builders of the zoo: a name to a small random model and example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import zoo_timm
from benchmarks.zoo_configs import ATTEMPTS, shrunken
from benchmarks.zoo_plain import PLAIN

Built = tuple[nn.Module, dict[str, Tensor] | tuple[Tensor, ...]]
TASKS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "speech-seq2seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "ctc": "MODEL_FOR_CTC_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "semantic-segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "object-detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "zero-shot-image": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "image": "MODEL_FOR_IMAGE_MAPPING_NAMES",
}
SIGNALS = ("pixel_values", "input_features", "input_values")
MAX_PARAMETERS = 70_000_000
TEXT = ("input_ids", "attention_mask", "decoder_input_ids")
FIRST = (
    "causal-lm/llama",
    "causal-lm/gemma",
    "causal-lm/gemma2",
    "causal-lm/gpt2",
    "causal-lm/gpt_neox",
    "causal-lm/bloom",
    "causal-lm/falcon",
    "causal-lm/opt",
    "causal-lm/mpt",
    "causal-lm/phi",
    "causal-lm/qwen2",
    "causal-lm/qwen3",
    "causal-lm/mixtral",
    "masked-lm/bert",
    "masked-lm/roberta",
    "masked-lm/deberta-v2",
    "seq2seq-lm/t5",
    "seq2seq-lm/bart",
    "image-classification/vit",
    "image-classification/convnext",
    "zero-shot-image/clip",
    "speech-seq2seq/whisper",
    "causal-lm/mamba",
    "image-classification/resnet",
    "image-classification/swin",
    "image-classification/mobilenet_v2",
    "causal-lm/gptj",
    "causal-lm/phi3",
    "causal-lm/gpt_oss",
    "causal-lm/qwen2_moe",
    "causal-lm/cohere",
    "causal-lm/olmo2",
    "causal-lm/stablelm",
    "causal-lm/deepseek_v3",
    "masked-lm/albert",
    "masked-lm/distilbert",
    "masked-lm/modernbert",
    "ctc/wav2vec2",
    "semantic-segmentation/segformer",
)


def names() -> list[str]:
    """All models of the zoo: the most telling, then the tasks by turns; no kind twice."""
    from transformers.models.auto import modeling_auto

    found = {f"torch/{name}": None for name in PLAIN} | dict.fromkeys(FIRST)
    seen = {name.split("/")[1] for name in FIRST}
    columns = [
        [(task, kind) for kind in getattr(modeling_auto, mapping)]
        for task, mapping in TASKS.items()
    ]
    for task, kind in filter(None, chain.from_iterable(zip_longest(*columns))):
        if kind not in seen:
            seen.add(kind)
            found[f"{task}/{kind}"] = None
    return [*found, *(f"timm/{family}" for family in zoo_timm.families())]


def build(name: str) -> Built:
    """The model and example inputs of ``name``."""
    torch.manual_seed(0)
    task, _, kind = name.partition("/")
    model, inputs = _made(task, kind)
    model.eval()
    _roughen(model)
    return model, inputs


def _made(task: str, kind: str) -> Built:
    if task == "torch":
        return PLAIN[kind]()
    return zoo_timm.build(kind) if task == "timm" else _transformer(task, kind)


def _roughen(model: nn.Module) -> None:
    """Weights with outlier channels and biases that are not zero, so that folds matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
                parameter.mul_(torch.exp(0.5 * torch.randn_like(parameter)))
            elif parameter.ndim == 2:
                parameter.mul_(torch.exp(0.5 * torch.randn(parameter.shape[0], 1)))


def _transformer(task: str, kind: str) -> Built:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = getattr(modeling_auto, TASKS[task])[kind]
    cls = getattr(transformers, known if isinstance(known, str) else known[0])
    failure: Exception | None = None
    for deep, alone in ATTEMPTS:
        try:
            return _running(cls, shrunken(CONFIG_MAPPING[kind], deep, alone))
        except Exception as error:  # noqa: BLE001 - whatever keeps this attempt from running
            failure = failure or error
    assert failure is not None
    raise failure


def _running(cls: type[Any], config: Any) -> Built:
    """A model that has run on its example inputs: all that it takes, or fewer."""
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"the shrunken configuration still has {size:,} parameters")
    model, given = cls(config).eval(), _inputs(cls, config)
    failure: Exception | None = None
    for without in ((), SIGNALS, TEXT, ("input_values",)):
        inputs = {key: value for key, value in given.items() if key not in without}
        for chosen in (inputs, _frames_first(inputs)):
            try:
                with torch.no_grad():
                    model(**chosen)
            except Exception as error:  # noqa: BLE001 - the model decides what fits
                failure = failure or error
            else:
                return model, chosen
    assert failure is not None
    raise failure


def _frames_first(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """``inputs`` with sound as ``(batch, frames, bands)``."""
    name = "input_features"
    return {**inputs, name: inputs[name].transpose(1, 2)} if name in inputs else inputs


def _inputs(cls: type[Any], config: Any) -> dict[str, Tensor]:
    accepted = inspect.signature(cls.forward).parameters
    tokens = torch.randint(3, 290, (2, 12))
    size = _find(config, "image_size", 32)
    height, wide = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = int(_find(config, "num_channels", 3))
    mels = int(_find(config, "num_mel_bins", 80))
    frames = 2 * int(_find(config, "max_source_positions", 64))
    choices: dict[str, Callable[[], Tensor]] = {
        "input_ids": lambda: tokens,
        "attention_mask": lambda: torch.ones_like(tokens),
        "decoder_input_ids": lambda: tokens[:, :7],
        "pixel_values": lambda: torch.randn(2, channels, height, wide),
        "input_features": lambda: torch.randn(2, mels, frames),
        "input_values": lambda: torch.randn(2, 4000),
    }
    given = {key: make() for key, make in choices.items() if key in accepted}
    if "input_ids" not in given:
        given.pop("attention_mask", None)
    if cls.main_input_name in ("input_features", "input_values", "pixel_values"):
        text = "input_ids" in given and cls.main_input_name != "pixel_values"
        if text:
            given.pop("input_ids")
            given.pop("attention_mask", None)
    return given


def _find(config: Any, name: str, default: Any) -> Any:
    """A field of the configuration or of one inside it."""
    inside = [getattr(config, key, None) for key in getattr(config, "sub_configs", {})]
    for place in (config, *inside):
        value = getattr(place, name, None)
        if value is not None:
            return value
    return default
