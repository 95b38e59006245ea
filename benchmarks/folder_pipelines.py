"""Small random diffusion pipelines, as folders to compile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORDS = 16
"""Tokens of a prompt."""
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

_SHIFTED: dict[str, Any] = {
    "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06,
}  # fmt: skip


@dataclass(frozen=True)
class Pipelined:
    """A pipeline that is made to be saved; ``make`` makes it."""

    make: Callable[[], Any]

    def save(self, folder: Path) -> Any:
        """Write it into ``folder``; returns the pipeline."""
        import torch

        torch.manual_seed(0)
        pipeline = self.make()
        for value in vars(pipeline).values():
            if isinstance(value, torch.nn.Module):
                value.eval()
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(folder)
        return pipeline


def _clip(projected: bool = False) -> tuple[Any, Any]:
    """A text encoder and its tokenizer, which knows letters."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as work:
        vocabulary, merges = Path(work) / "vocab.json", Path(work) / "merges.txt"
        vocabulary.write_text(json.dumps({word: place for place, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        made = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=_WORDS)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=_WORDS, projection_dim=32,
        bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(config), made


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel

    from benchmarks.folder_models import word_tokenizer

    words = word_tokenizer()
    words.model_max_length = _WORDS
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return T5EncoderModel(config), words


def _coder(channels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **more,
    )  # fmt: skip


def _unet(width: int = 32, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(32, 64), cross_attention_dim=width, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip


def _stable_diffusion() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    text, words = _clip()
    return StableDiffusionPipeline(
        vae=_coder(), text_encoder=text, tokenizer=words, unet=_unet(),
        scheduler=DDIMScheduler(**_NOISE, clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    (text, words), (other, more) = _clip(), _clip(projected=True)
    unet = _unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80, use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_coder(), text_encoder=text, text_encoder_2=other, tokenizer=words, tokenizer_2=more,
        unet=unet, scheduler=EulerDiscreteScheduler(**_NOISE, steps_offset=1),
    )  # fmt: skip


def _stable_diffusion_3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    (one, words), (two, more), (three, others) = _clip(True), _clip(True), _t5()
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
        joint_attention_dim=32, pooled_projection_dim=64,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_coder(**_SHIFTED), text_encoder=one, tokenizer=words, text_encoder_2=two,
        tokenizer_2=more, text_encoder_3=three, tokenizer_3=others,
    )  # fmt: skip


def _flux() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    (text, words), (other, more) = _clip(), _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_coder(1, **_SHIFTED), text_encoder=text,
        tokenizer=words, text_encoder_2=other, tokenizer_2=more, transformer=transformer,
    )  # fmt: skip


def _patches(kind: Any, **more: Any) -> Any:
    return kind(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4,
        in_channels=4, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_elementwise_affine=False, **more,
    )  # fmt: skip


def _dit() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = _patches(DiTTransformer2DModel, norm_type="ada_norm_zero")
    return DiTPipeline(transformer=transformer, vae=_coder(), scheduler=DDIMScheduler())


def _pixart() -> Any:
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    text, words = _t5()
    transformer = _patches(
        PixArtTransformer2DModel, norm_type="ada_norm_single", norm_eps=1e-6,
        caption_channels=32, cross_attention_dim=32,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        transformer=transformer, vae=_coder(), scheduler=DDIMScheduler(), text_encoder=text,
        tokenizer=words,
    )  # fmt: skip


def _latent_consistency() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    text, words = _clip()
    return LatentConsistencyModelPipeline(
        vae=_coder(), text_encoder=text, tokenizer=words, unet=_unet(time_cond_proj_dim=32),
        scheduler=LCMScheduler(**_NOISE, clip_sample=False), safety_checker=None,
        feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


def _unconditional() -> Any:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


def _gemma() -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2Model

    from benchmarks.folder_models import word_tokenizer

    words = word_tokenizer()
    words.model_max_length = _WORDS
    config = Gemma2Config(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, sliding_window=16,
        query_pre_attn_scalar=8,
    )  # fmt: skip
    return Gemma2Model(config), words


def _sana() -> Any:
    from diffusers import (
        AutoencoderDC,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    text, words = _gemma()
    coder: dict[str, Any] = {
        f"{half}coder_{key}": value
        for half in ("en", "de")
        for key, value in {
            "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "block_out_channels": (8, 8, 8), "qkv_multiscales": ((), (), (5,)),
            "layers_per_block": (1, 1, 1),
        }.items()
    }  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=4, downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41, **coder,
    )  # fmt: skip
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=32, sample_size=32,
    )  # fmt: skip
    return SanaPipeline(
        tokenizer=words, text_encoder=text, vae=vae, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def _aura_flow() -> Any:
    from diffusers import (
        AuraFlowPipeline,
        AuraFlowTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    text, words = _t5()
    transformer = AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
        joint_attention_dim=32, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip
    return AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=text, tokenizer=words,
        transformer=transformer, vae=_coder(),
    )  # fmt: skip


def _lumina() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    text, words = _gemma()
    transformer = Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2,
        num_refiner_layers=1, num_attention_heads=3, num_kv_heads=1, multiple_of=16,
        norm_eps=1e-5, scaling_factor=1.0, axes_dim_rope=[4, 2, 2], axes_lens=[128, 128, 128],
        cap_feat_dim=32,
    )  # fmt: skip
    return Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=text, tokenizer=words,
        transformer=transformer, vae=_coder(**_SHIFTED),
    )  # fmt: skip


def _chroma() -> Any:
    from diffusers import (
        ChromaPipeline,
        ChromaTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    text, words = _t5()
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32, approximator_layers=1, approximator_num_channels=16,
    )  # fmt: skip
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_coder(1, **_SHIFTED), text_encoder=text,
        tokenizer=words, transformer=transformer,
    )  # fmt: skip


def _implicit() -> Any:
    from diffusers import DDIMPipeline, DDIMScheduler

    return DDIMPipeline(unet=_unconditional().unet, scheduler=DDIMScheduler())


PIPELINES = {
    "diffusion/stable-diffusion": Pipelined(_stable_diffusion),
    "diffusion/stable-diffusion-xl": Pipelined(_stable_diffusion_xl),
    "diffusion/stable-diffusion-3": Pipelined(_stable_diffusion_3),
    "diffusion/flux": Pipelined(_flux),
    "diffusion/dit": Pipelined(_dit),
    "diffusion/pixart-sigma": Pipelined(_pixart),
    "diffusion/latent-consistency": Pipelined(_latent_consistency),
    "diffusion/ddpm": Pipelined(_unconditional),
    "diffusion/sana": Pipelined(_sana),
    "diffusion/aura-flow": Pipelined(_aura_flow),
    "diffusion/lumina": Pipelined(_lumina),
    "diffusion/chroma": Pipelined(_chroma),
    "diffusion/ddim": Pipelined(_implicit),
}
