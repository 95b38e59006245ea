"""Small random models that speak, as folders to compile."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HIFI: dict[str, Any] = {
    "upsample_initial_channel": 16, "upsample_rates": [4, 4], "upsample_kernel_sizes": [8, 8],
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
}  # fmt: skip
_VITS: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "ffn_dim": 48, "flow_size": 32, "spectrogram_bins": 17, "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 2, "posterior_encoder_num_wavenet_layers": 1,
    "duration_predictor_filter_channels": 32, "duration_predictor_num_flows": 2, **_HIFI,
}  # fmt: skip
_SPEECHT5: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_layers": 2, "decoder_ffn_dim": 48,
    "decoder_attention_heads": 4, "num_mel_bins": 16, "speech_decoder_prenet_units": 32,
    "speaker_embedding_dim": 16, "speech_decoder_postnet_units": 32, "max_text_positions": 64,
    "max_speech_positions": 200, "conv_dim": [16], "conv_stride": [5], "conv_kernel": [10],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_FASTSPEECH: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "num_mel_bins": 16, "encoder_layers": 1,
    "encoder_linear_units": 48, "decoder_layers": 1, "decoder_linear_units": 48,
    "speech_decoder_postnet_units": 32, "speech_decoder_postnet_layers": 3,
    "duration_predictor_channels": 32, "energy_predictor_channels": 32,
    "pitch_predictor_channels": 32, "pitch_predictor_layers": 2,
}  # fmt: skip
_VOCODER: dict[str, Any] = {"model_in_dim": 16, **_HIFI}
_BARK: dict[str, Any] = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 4, "block_size": 400,
}  # fmt: skip
_ENCODEC: dict[str, Any] = {
    "num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16,
    "upsampling_ratios": [4, 2], "num_lstm_layers": 1, "target_bandwidths": [24.0, 48.0],
    "sampling_rate": 8000,
}  # fmt: skip
_BARK_GENERATION: dict[str, Any] = {
    "semantic_config": {
        "eos_token_id": 64, "semantic_vocab_size": 64, "text_encoding_offset": 70,
        "text_pad_token": 199, "semantic_pad_token": 64, "semantic_infer_token": 69,
        "max_input_semantic_length": 16, "max_new_tokens": 12, "semantic_rate_hz": 50,
        "do_sample": True,
    },
    "coarse_acoustics_config": {
        "coarse_semantic_pad_token": 64, "coarse_infer_token": 199, "coarse_rate_hz": 75,
        "n_coarse_codebooks": 2, "max_coarse_input_length": 16, "max_coarse_history": 60,
        "sliding_window_len": 12, "do_sample": True,
    },
    "fine_acoustics_config": {
        "max_fine_history_length": 64, "max_fine_input_length": 128, "n_fine_codebooks": 8,
        "temperature": 0.5,
    },
    "codebook_size": 64, "sample_rate": 8000, "do_sample": True,
}  # fmt: skip
_LANGUAGES: dict[str, Any] = {
    "text_decoder_lang_to_code_id": {"eng": 5, "fra": 6},
    "t2u_lang_code_to_id": {"eng": 5, "fra": 6},
    "vocoder_lang_code_to_id": {"eng": 0, "fra": 1}, "max_new_tokens": 12,
    "char_to_id": {f"t{place % 10}": place for place in range(4, 60)},
    "id_to_text": {str(place): f"t{place}" for place in range(128)},
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "pad_token_id": 1, "eos_token_id": 2, "model_type": "t5",
}  # fmt: skip
_CODES: dict[str, Any] = {
    "vocab_size": 64, "max_position_embeddings": 128, "num_hidden_layers": 2, "ffn_dim": 48,
    "num_attention_heads": 4, "hidden_size": 32, "num_codebooks": 4, "pad_token_id": 64,
    "bos_token_id": 64,
}  # fmt: skip
_SEAMLESS: dict[str, Any] = {
    "vocab_size": 128, "t2u_vocab_size": 64, "hidden_size": 32, "max_position_embeddings": 64,
    "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_layers": 2,
    "decoder_ffn_dim": 48, "decoder_attention_heads": 4, "speech_encoder_layers": 1,
    "speech_encoder_attention_heads": 4, "speech_encoder_intermediate_size": 48,
    "t2u_encoder_layers": 1, "t2u_encoder_ffn_dim": 48, "t2u_encoder_attention_heads": 4,
    "t2u_decoder_layers": 1, "t2u_decoder_ffn_dim": 48, "t2u_decoder_attention_heads": 4,
    "t2u_max_position_embeddings": 128, "t2u_variance_predictor_embed_dim": 32,
    "t2u_variance_predictor_hidden_dim": 16, "unit_hifi_gan_vocab_size": 64, "unit_embed_dim": 16,
    "lang_embed_dim": 8, "spkr_embed_dim": 8, "vocoder_num_langs": 4, "vocoder_num_spkrs": 4,
    "char_vocab_size": 64, **_HIFI,
}  # fmt: skip


_OTHERS = ("t9 t8 t7 t6 t5", "t14 t3 t44 t55 t6 t7 t90")
"""Texts that no compile has seen."""
_MOST = 20
"""Tokens that are made of one: with random weights no text ends by itself."""


@dataclass(frozen=True)
class Speaking:
    """A model that is made to be saved, with a tokenizer that knows some words.

    Attributes:
        kind: transformers' type of its configuration.
        auto_class: what makes it of that.
        config: what differs from the type's usual configuration.
        generation: how it generates, beside the usual.
        processor: the class of what its tokenizer is a part of.
        prepared: what is done to the model before it is saved.
        vocoder: whether one is saved in a folder inside.
    """

    kind: str
    auto_class: str
    config: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    processor: str | None = None
    prepared: Callable[[Any], None] = lambda model: None
    vocoder: bool = False

    def save(self, folder: Path) -> Any:
        """Write it into ``folder``; returns the model."""
        import torch
        import transformers

        from benchmarks.folder_models import word_tokenizer

        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(self.kind, **deepcopy(self.config))
        model = getattr(transformers, self.auto_class).from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.rand_like(parameter)
        self.prepared(model)
        if self.generation:
            for name, value in {"_from_model_config": False, **self.generation}.items():
                setattr(model.generation_config, name, value)
        model.save_pretrained(folder)
        made = word_tokenizer()
        if self.processor is not None:
            made = getattr(transformers, self.processor)(made)
        made.save_pretrained(folder)
        if self.vocoder:
            made = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(**_VOCODER))
            made.save_pretrained(folder / "vocoder")
        return model


def _longer(model: Any) -> None:
    """Let words last for some frames, and texts not end at once, as random weights would."""
    for name, value in model.named_parameters():
        if name.endswith(("duration_predictor.linear.bias", "duration_predictor.proj.bias")):
            value.data.fill_(1.2)
        if name.endswith("prob_out.bias"):
            value.data.fill_(-3)


def _no_special(model: Any) -> None:
    """Let units be spoken alone: those that begin, end and pad them have no sound."""
    for name, value in model.t2u_model.named_parameters():
        if name.endswith(("lm_head.weight", "embed_tokens.weight")):
            value.data[:4] = 0


_WAVE, _MEL = "AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"
_MUSIC = {"text_encoder": _T5, "audio_encoder": {**_ENCODEC, "model_type": "encodec"},
          "decoder": _CODES}  # fmt: skip
SPEAKING: dict[str, Speaking] = {
    "text-to-speech/vits": Speaking(
        "vits", _WAVE, {**_VITS, "use_stochastic_duration_prediction": False}, prepared=_longer
    ),
    "text-to-speech/vits-stochastic": Speaking("vits", _WAVE, _VITS),
    "text-to-speech/speecht5": Speaking("speecht5", _MEL, _SPEECHT5, prepared=_longer),
    "text-to-speech/speecht5-vocoder": Speaking(
        "speecht5", _MEL, _SPEECHT5, prepared=_longer, vocoder=True
    ),
    "text-to-speech/fastspeech2-conformer": Speaking(
        "fastspeech2_conformer", _MEL, _FASTSPEECH, prepared=_longer
    ),
    "text-to-speech/fastspeech2-conformer-hifigan": Speaking(
        "fastspeech2_conformer_with_hifigan", _WAVE,
        {"model_config": _FASTSPEECH, "vocoder_config": _VOCODER}, prepared=_longer,
    ),
    "text-to-speech/bark": Speaking(
        "bark", _WAVE,
        {
            "semantic_config": {**_BARK, "input_vocab_size": 200, "output_vocab_size": 65},
            "coarse_acoustics_config": {**_BARK, "input_vocab_size": 200, "output_vocab_size": 200},
            "fine_acoustics_config": {**_BARK, "input_vocab_size": 66, "output_vocab_size": 66},
            "codec_config": {**_ENCODEC, "model_type": "encodec"},
        },
        _BARK_GENERATION, "BarkProcessor",
    ),
    "text-to-speech/musicgen": Speaking("musicgen", _WAVE, _MUSIC),
    "text-to-speech/musicgen-melody": Speaking("musicgen_melody", _WAVE, _MUSIC),
    "text-to-speech/seamless-m4t": Speaking(
        "seamless_m4t", _WAVE, _SEAMLESS, _LANGUAGES, prepared=_no_special
    ),
    "text-to-speech/seamless-m4t-v2": Speaking(
        "seamless_m4t_v2", _WAVE, _SEAMLESS, _LANGUAGES, prepared=_no_special
    ),
}  # fmt: skip


def loss_of_speech(source: Path, target: Path) -> float:
    """Of the worst part on what reaches it while the float model speaks other texts.

    The compiled folder speaks one of them as well, which fails where it cannot.
    """
    from awqc.data.spoken import as_given
    from awqc.huggingface.spoken_settings import limits, without_chance
    from awqc.recording.entries import modules_of
    from awqc.running.speech import Speech
    from awqc.sources.opening import find_run_folder
    from benchmarks.folder_parts import loss_of_parts

    found: Any = find_run_folder(source, None, False)
    speaker = found.speaker()
    without_chance(speaker)
    limits(speaker)(_MOST, 1)
    given = json.loads((target / "report.json").read_text())["given"]
    voice = {name: as_given(value) for name, value in given.items()}
    loss = loss_of_parts(
        target, modules_of(speaker), lambda: [speaker(text, voice) for text in _OTHERS]
    )
    list(Speech(target, target / "sound", most=_MOST).answer(_OTHERS[:1]))
    return loss
