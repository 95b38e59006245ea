"""Diffusion pipelines of a few thousand weights, made from configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def save_unconditional(folder: Path) -> Any:
    """Images out of noise alone, by one U-Net that works on pixels."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return _saved(DDPMPipeline(unet=unet, scheduler=DDPMScheduler()), folder)


def save_text_to_image(folder: Path) -> Any:
    """A text encoder, a U-Net that reads it, and a decoder of latents."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tokenizer = _tokenizer(folder / "tokenizer", CLIPTokenizer)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32), cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    coder = AutoencoderKL(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        vae=coder, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return _saved(pipeline, folder)


def _tokenizer(folder: Path, kind: Any) -> Any:
    """Of letters, alone and at the end of a word."""
    folder.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    known = {word: place for place, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(known))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return kind(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def _saved(pipeline: Any, folder: Path) -> Any:
    from awqc.machine.process import quiet_libraries

    for value in vars(pipeline).values():
        if isinstance(value, torch.nn.Module):
            value.eval()
    with quiet_libraries():
        pipeline.save_pretrained(folder)
    return pipeline
