"""What onnxruntime-genai reads beside an encoder of audio and a decoder.

Its type is the ``model_type`` of the configuration: genai says whether it knows it. It makes the
inputs by itself, after ``audio_processor_config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from awqc.huggingface.config_values import config_value, context_length
from awqc.huggingface.genai import LENGTH, SESSION, greedy, known_words
from awqc.kv_cache import KEY, PAST, TOKENS, VALUE, past_name, present_name

AUDIO_PROCESSOR = "audio_processor_config.json"
STATES = "encoder_hidden_states"
SPECTRUM = ("n_fft", "hop_length", "feature_size", "chunk_length")
"""What a feature extractor says that makes a spectrum of mels of so many seconds."""
Shapes = Mapping[str, Sequence[int | str]]
"""Of tensors by name, free axes by theirs."""


def speech_config(
    config: Any,
    encoder: tuple[str, str, Shapes],
    decoder: tuple[str, Shapes],
    settings: Mapping[str, str],
) -> dict[str, Any]:
    """The content of ``genai_config.json``.

    ``encoder`` is its file, its input, and what it makes, the states first; ``decoder`` is its file
    and what it reads. ``settings`` are config entries of their sessions.
    """
    file, audio, made = encoder
    states = next(iter(made))
    sizes = {name: shape for name, shape in decoder[1].items() if name.startswith(PAST)}
    keys = [shape for name, shape in sizes.items() if name.endswith(f"decoder.{KEY}")]
    layers, heads, width = len(keys), keys[0][1], keys[0][3]
    common = {
        "session_options": SESSION | dict(settings),
        "head_size": width,
        "hidden_size": made[states][2],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
    }
    crossing = len(made) > 1
    limit = context_length(config) or config_value(config, "max_target_positions") or LENGTH
    return {
        "model": {
            "type": config.model_type,
            "context_length": limit,
            **known_words(config),
            "encoder": common
            | {
                "filename": file,
                "inputs": {"audio_features": audio},
                "outputs": {STATES: states}
                | (_named(present_name, "encoder", "cross_present") if crossing else {}),
            },
            "decoder": common
            | {
                "filename": decoder[0],
                "inputs": {TOKENS: TOKENS}
                | _named(past_name, "decoder", "past")
                | (_named(past_name, "encoder", "cross_past") if crossing else {STATES: STATES}),
                "outputs": {"logits": "logits"} | _named(present_name, "decoder", "present"),
            },
        },
        "search": greedy(limit, shared=False),
    }


def audio_processor(extractor: Mapping[str, Any]) -> dict[str, Any] | None:
    """How genai makes a spectrum of mels as ``extractor`` does; None: it makes something else."""
    if any(not isinstance(extractor.get(name), int) for name in SPECTRUM):
        return None
    length, hop, mels, seconds = (extractor[name] for name in SPECTRUM)
    steps = [
        ("audio_decoder", "AudioDecoder", {}),
        ("STFT", "STFTNorm", {"n_fft": length, "frame_length": length, "hop_length": hop}),
        (
            "log_mel_spectrogram",
            "LogMelSpectrum",
            {"chunk_size": seconds, "hop_length": hop, "n_fft": length, "n_mel": mels},
        ),
    ]
    return {
        "feature_extraction": {
            "sequence": [
                {"operation": {"name": name, "type": kind} | ({"attrs": attrs} if attrs else {})}
                for name, kind, attrs in steps
            ]
        }
    }


def _named(name: Any, side: str, kind: str) -> dict[str, str]:
    return {f"{kind}_{part}_names": name("%d", f"{side}.{part}") for part in (KEY, VALUE)}
