"""A model of a few thousand weights that speaks, as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny_language_models import save_tokenizer


def save_speaking(folder: Path) -> Any:
    """A VITS whose words last for some frames; it draws noise between its parts."""
    from transformers import VitsConfig, VitsModel

    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
        flow_size=32, spectrogram_bins=17, prior_encoder_num_flows=2, sampling_rate=8000,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_filter_channels=32, use_stochastic_duration_prediction=False,
        upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
    )  # fmt: skip
    model = VitsModel(config).eval()
    model.duration_predictor.proj.bias.data.fill_(1.2)
    model.save_pretrained(folder)
    save_tokenizer(folder, words=64)
    return model
