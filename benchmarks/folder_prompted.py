"""Small random models that read images and text in one decoder, as folders to compile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOKEN = 128
"""The token that stands for rows of images: the first behind the words."""
_VOCABULARY = 136
_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_TEXT = {**_BLOCKS, **_ENDS, "vocab_size": _VOCABULARY, "num_key_value_heads": 2, "head_dim": 8,
         "max_position_embeddings": 256}  # fmt: skip
_LLAMA = {**_TEXT, "model_type": "llama"}
_VIT = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_CLIP = {**_VIT, "model_type": "clip_vision_model", "projection_dim": 16}
_SIGLIP = {**_VIT, "model_type": "siglip_vision_model"}
_SIGLIP_POOLED = {**_SIGLIP, "vision_use_head": False}
_GEMMA = {**_TEXT, "model_type": "gemma"}
_GEMMA3 = {**_TEXT, "model_type": "gemma3_text", "sliding_window": 16,
           "layer_types": ["sliding_attention", "full_attention"]}  # fmt: skip
_OPT = {**_TEXT, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}
_QUERIES = {**_BLOCKS, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
_BART = {"model_type": "bart", "vocab_size": _VOCABULARY, "d_model": 32, "encoder_layers": 2,
         "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
         "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, **_ENDS,
         "decoder_start_token_id": 2}  # fmt: skip
_STAGES = {"depths": [1, 1, 1, 1], "embed_dim": [8, 16, 24, 32], "num_heads": [1, 2, 2, 2],
           "num_groups": [1, 2, 2, 2], "window_size": 4, "projection_dim": 32}  # fmt: skip
_COHERE = {**_TEXT, "model_type": "cohere2", "layer_types": ["full_attention"] * 2}
_SQUARE = {"size": {"height": 32, "width": 32}}
_CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
_MARKED = [129, 130, 131, 132, 133]
"""Tokens around an image, whose rows the model keeps with what sees images."""
_CODES = {"<image>": _TOKEN,
          **{f"IMGIMG{chr(65 + code // 10)}{chr(65 + code % 10)}Z": code + 4
             for code in range(32)}}  # fmt: skip
"""Tokens of pieces of an image, whose rows are those of the table."""
_TILED = {"hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
          "intermediate_size": 48, "vision_output_dim": 64, "image_size": 32, "patch_size": 8,
          "max_num_tiles": 2, "intermediate_layers_indices": [0],
          "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}  # fmt: skip
_PATCHES = {"patch_size": 8, "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1}  # fmt: skip


@dataclass(frozen=True)
class Prompted:
    """A model that is made to be saved.

    Attributes:
        kind: transformers' type of its configuration.
        config: what differs from the type's usual configuration.
        images: the class of its processor of images, without its ending.
        options: what differs from that processor's usual settings.
        both: the class of the processor of both, without its ending.
        settings: what differs from its usual settings.
        marks: special tokens, the one for images first.
        named: names under which a tokenizer knows some of them.
        chat: the chat template, or none.
        videos: the class of its processor of videos, without its ending, or none; such a folder is
            read where torchvision is installed.
        head: what makes the model, without its beginning.
    """

    kind: str
    config: dict[str, Any]
    images: str
    options: dict[str, Any]
    both: str
    settings: dict[str, Any] = field(default_factory=dict)
    marks: Sequence[str] = ("<image>",)
    named: dict[str, str] = field(default_factory=dict)
    chat: str | None = None
    videos: str = ""
    head: str = "ImageTextToText"

    def save(self, folder: Path) -> Any:
        """Write it into ``folder``, with its processor; returns the model."""
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(self.kind, **deepcopy(self.config))
        model = getattr(transformers, f"AutoModelFor{self.head}").from_config(config).eval()
        with torch.no_grad():  # Else all images look alike, and all texts end alike.
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        images = getattr(transformers, f"{self.images}ImageProcessor")(**self.options)
        parts = [images, _tokenizer(self.marks, self.named)]
        if self.videos:
            parts.append(getattr(transformers, f"{self.videos}VideoProcessor")(**self.options))
        processor = getattr(transformers, f"{self.both}Processor")
        chat = {} if self.chat is None else {"chat_template": self.chat}
        made = processor(*parts, **chat, **self.settings)
        made.save_pretrained(folder)
        return model


def _tokenizer(marks: Sequence[str], named: dict[str, str]) -> Any:
    """That of `word_tokenizer`, with ``marks`` behind the words, some of them ``named``."""
    from benchmarks.folder_models import word_tokenizer

    plain = word_tokenizer()
    plain.add_special_tokens({"additional_special_tokens": list(marks)})
    made = type(plain)(
        tokenizer_object=plain.backend_tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        extra_special_tokens=named or {},
    )
    assert made.convert_tokens_to_ids(marks[0]) == _TOKEN
    return made


_CHAT = (
    "{% for message in messages %}t9 {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}t10{% endif %}"
)


_PIXTRAL = {**_VIT, "model_type": "pixtral", "image_size": 64, "head_dim": 8}
_LONGEST = {"size": {"longest_edge": 64}, "patch_size": {"height": 8, "width": 8}}
_TILES = [[32, 32], [32, 64], [64, 32]]
_PIXELS = {"patch_size": 8, "min_pixels": 32 * 32, "max_pixels": 64 * 64}
_SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_GRIDS = {"text_config": {**_TEXT, "rope_parameters": _SECTIONS}, "image_token_id": _TOKEN,
          "video_token_id": 129, "vision_start_token_id": 130,
          "vision_end_token_id": 131}  # fmt: skip
_INTERLEAVED = {**_TEXT, "num_hidden_layers": 3,
                "rope_parameters": {**_SECTIONS, "mrope_interleaved": True}}  # fmt: skip
_LINEAR = {**_TEXT, "layer_types": ["linear_attention", "full_attention"], "head_dim": 16,
           "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
           "linear_num_value_heads": 4,
           "rope_parameters": {**_SECTIONS, "partial_rotary_factor": 0.5,
                               "mrope_interleaved": True}}  # fmt: skip
_EDGES = {"patch_size": 8, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}}
_UNSIZED = {key: value for key, value in _TEXT.items() if key != "head_dim"}
_GRID_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_GRID_CHAT = _CHAT.replace("<image>", "<|vision_start|> <|image_pad|> <|vision_end|>")


def prompted_models() -> Iterator[tuple[str, Prompted]]:
    """By task and type of model."""
    both = {"text_config": _LLAMA, "image_token_id": _TOKEN, "image_token_index": _TOKEN}
    rows = (
        Prompted("llava", {**both, "vision_config": _CLIP}, "CLIP", _CROPPED, "Llava", _PATCHES,
                 chat=_CHAT),
        Prompted("vipllava", {**both, "vision_config": _CLIP, "vision_feature_layer": [-1, -2]},
                 "CLIP", _CROPPED, "Llava", _PATCHES),
        Prompted("paligemma", {**both, "text_config": _GEMMA, "projection_dim": 32,
                               "vision_config": {**_SIGLIP_POOLED, "projection_dim": 32}},
                 "Siglip", {**_SQUARE, "image_seq_length": 16}, "PaliGemma"),
        Prompted("idefics3", {**both, "vision_config": {**_VIT, "model_type": "idefics3_vision"},
                              "scale_factor": 2},
                 "Idefics3", {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}},
                 "Idefics3", {"image_seq_len": 4}),
        Prompted("idefics2", {**both, "text_config": {**_TEXT, "model_type": "mistral"},
                              "vision_config": {**_VIT, "model_type": "idefics2_vision"},
                              "perceiver_config": {"hidden_size": 32, "resampler_n_latents": 4,
                                                   "resampler_depth": 1, "resampler_n_heads": 4,
                                                   "resampler_head_dim": 8,
                                                   "num_key_value_heads": 2}},
                 "Idefics2", {"size": {"shortest_edge": 32, "longest_edge": 48},
                              "do_image_splitting": False},
                 "Idefics2", {"image_seq_len": 4}),
        Prompted("gemma3", {"text_config": _GEMMA3, "vision_config": _SIGLIP_POOLED,
                            "mm_tokens_per_image": 4, "image_token_index": _TOKEN,
                            "boi_token_index": 129, "eoi_token_index": 130},
                 "Gemma3", _SQUARE, "Gemma3", {"image_seq_length": 4},
                 ("<image>", "<boi>", "<eoi>"),
                 {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}),
        Prompted("aya_vision", {**both, "text_config": _COHERE, "vision_config": _SIGLIP},
                 "GotOcr2", {**_SQUARE, "crop_to_patches": False}, "AyaVision",
                 {"patch_size": 8, "img_size": 32, "downsample_factor": 2,
                  "image_token": "<mark>", "img_patch_token": "<image>"},
                 ("<image>", "<mark>", "<|START_OF_IMG|>", "<|END_OF_IMG|>",
                  "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")),
        Prompted("deepseek_vl", {**both, "vision_config": _SIGLIP_POOLED}, "DeepseekVL",
                 {**_SQUARE, "min_size": 8}, "DeepseekVL", {"num_image_tokens": 16},
                 named={"image_token": "<image>"}),
        Prompted("ovis2", {"text_config": {**_TEXT, "model_type": "qwen2"}, "hidden_size": 32,
                           "vision_config": {**_VIT, "vocab_size": 64, "hidden_stride": 2,
                                             "num_visual_indicator_tokens": 5},
                           "image_token_id": _TOKEN, "visual_indicator_token_ids": _MARKED,
                           "vocab_size": _VOCABULARY},
                 "Ovis2", {**_SQUARE, "crop_to_patches": False}, "Ovis2", {"image_seq_length": 4},
                 ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>",
                  "<image>"), {"image_token": "<IMG_ATOM>"}, chat=_CHAT),
        Prompted("chameleon", {**_TEXT, "num_key_value_heads": 4, "image_token_id": _TOKEN,
                               "vq_config": {"embed_dim": 16, "num_embeddings": 32,
                                             "latent_channels": 16, "resolution": 32,
                                             "base_channels": 32, "channel_multiplier": [1, 2],
                                             "num_res_blocks": 1},
                               "vocabulary_map": _CODES},
                 "Chameleon", _CROPPED, "Chameleon", {"image_seq_length": 256},
                 ("<image>", "<racm3:break>", "<eoss>"),
                 {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}),
        Prompted("mllama", {"text_config": {**_TEXT, "model_type": "mllama_text_model",
                                            "num_hidden_layers": 3, "cross_attention_layers": [1]},
                            "vision_config": _TILED, "image_token_index": _TOKEN},
                 "Mllama", {**_SQUARE, "max_image_tiles": 2}, "Mllama",
                 marks=("<|image|>", "<|python_tag|>"), chat=_CHAT.replace("<image>", "<|image|>")),
        Prompted("blip-2", {**both, "text_config": _OPT, "vision_config": _VIT,
                            "qformer_config": _QUERIES, "num_query_tokens": 4},
                 "Blip", _SQUARE, "Blip2", {"num_query_tokens": 4}),
        Prompted("florence2", {"text_config": _BART, "vision_config": _STAGES,
                               "image_token_id": _TOKEN, "is_encoder_decoder": True},
                 "CLIP", {**_SQUARE, "do_center_crop": False, "image_seq_length": 2}, "Florence2",
                 named={"image_token": "<image>"}),
        Prompted("llava_next", {**both, "vision_config": _CLIP,
                                "image_grid_pinpoints": [[32, 64], [64, 32]]},
                 "LlavaNext", {**_CROPPED, "image_grid_pinpoints": [[32, 64], [64, 32]]},
                 "LlavaNext", _PATCHES),
        Prompted("mistral3", {"text_config": {**_TEXT, "model_type": "mistral"},
                              "vision_config": _PIXTRAL, "image_token_index": _TOKEN,
                              "spatial_merge_size": 2},
                 "Pixtral", _LONGEST, "Pixtral", {"patch_size": 8, "spatial_merge_size": 2},
                 ("[IMG]", "[IMG_BREAK]", "[IMG_END]"), chat=_CHAT.replace("<image>", "[IMG]")),
        Prompted("llava_onevision", {**both, "vision_config": _SIGLIP, "video_token_index": 129,
                                     "text_config": {**_TEXT, "model_type": "qwen2"},
                                     "image_grid_pinpoints": _TILES},
                 "LlavaOnevision", {**_SQUARE, "image_grid_pinpoints": _TILES}, "LlavaOnevision",
                 {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
                 ("<image>", "<video>"), chat=_CHAT, videos="LlavaOnevision"),
        Prompted("qwen2_vl", {**_GRIDS, "vision_config": {"depth": 2, "embed_dim": 32,
                                                          "hidden_size": 32, "num_heads": 4,
                                                          "mlp_ratio": 2, "patch_size": 8}},
                 "Qwen2VL", _PIXELS, "Qwen2VL", marks=_GRID_MARKS, chat=_GRID_CHAT,
                 videos="Qwen2VL"),
        Prompted("qwen2_5_vl", {**_GRIDS, "vision_config": {"depth": 2, "hidden_size": 32,
                                                            "out_hidden_size": 32, "num_heads": 4,
                                                            "intermediate_size": 48,
                                                            "patch_size": 8, "window_size": 32,
                                                            "fullatt_block_indexes": [1]}},
                 "Qwen2VL", _PIXELS, "Qwen2_5_VL", marks=_GRID_MARKS, chat=_GRID_CHAT,
                 videos="Qwen2VL"),
        Prompted("qwen3_vl", {**_GRIDS, "text_config": _INTERLEAVED,
                              "vision_config": {"depth": 4, "hidden_size": 32, "num_heads": 4,
                                                "out_hidden_size": 32, "intermediate_size": 48,
                                                "patch_size": 8, "num_position_embeddings": 16,
                                                "deepstack_visual_indexes": [0, 2]}},
                 "Qwen2VL", _PIXELS, "Qwen3VL", marks=_GRID_MARKS, chat=_GRID_CHAT,
                 videos="Qwen3VL"),
        Prompted("qwen3_5", {**_GRIDS, "text_config": _LINEAR,
                             "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 4,
                                               "out_hidden_size": 32, "intermediate_size": 48,
                                               "patch_size": 8, "num_position_embeddings": 16}},
                 "Qwen2VL", _PIXELS, "Qwen3VL", marks=_GRID_MARKS, chat=_GRID_CHAT,
                 videos="Qwen3VL"),
        Prompted("paddleocr_vl", {**_GRIDS, "vision_config": {**_BLOCKS, "image_size": 32,
                                                              "patch_size": 8}},
                 "PaddleOCRVL", _EDGES, "PaddleOCRVL", marks=_GRID_MARKS,
                 named={"image_token": "<|image_pad|>"}, chat=_GRID_CHAT),
        Prompted("lfm2_vl", {**both, "text_config": {**_TEXT, "model_type": "lfm2",
                                                     "layer_types": ["conv", "full_attention"],
                                                     "block_auto_adjust_ff_dim": False},
                             "vision_config": {**_BLOCKS, "model_type": "siglip2_vision_model",
                                               "patch_size": 8, "num_patches": 16},
                             "projector_hidden_size": 32},
                 "Lfm2Vl", {"encoder_patch_size": 8, "tile_size": 32, "min_image_tokens": 4,
                            "max_image_tokens": 16, "do_image_splitting": False,
                            "max_num_patches": 64},
                 "Lfm2Vl", marks=("<image>", "<|image_start|>", "<|image_end|>",
                                  "<|img_thumbnail|>"),
                 named={"image_token": "<image>", "image_start_token": "<|image_start|>",
                        "image_end_token": "<|image_end|>",
                        "image_thumbnail_token": "<|img_thumbnail|>"}, chat=_CHAT),
        Prompted("internvl", {**both, "text_config": {**_TEXT, "model_type": "qwen2"},
                              "vision_config": {**_BLOCKS, "image_size": [32, 32],
                                                "patch_size": [8, 8]},
                              "image_seq_length": 4},
                 "GotOcr2", {**_SQUARE, "crop_to_patches": False}, "InternVL",
                 {"image_seq_length": 4}, ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
                 {"start_image_token": "<img>", "end_image_token": "</img>",
                  "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
                 _CHAT.replace("<image>", "<IMG_CONTEXT>"), "InternVL"),
        Prompted("glm4v", {"text_config": {**_UNSIZED, "rope_parameters": _SECTIONS},
                           "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 4,
                                             "image_size": 32, "patch_size": 8,
                                             "out_hidden_size": 32, "intermediate_size": 48},
                           "image_token_id": _TOKEN, "video_token_id": 129,
                           "image_start_token_id": 130, "image_end_token_id": 131,
                           "video_start_token_id": 132, "video_end_token_id": 133},
                 "Glm4v", _EDGES, "Glm4v",
                 marks=("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>",
                        "<|begin_of_video|>", "<|end_of_video|>"),
                 named={"image_token": "<|image|>", "video_token": "<|video|>"},
                 chat=_CHAT.replace("<image>", "<|begin_of_image|> <|image|> <|end_of_image|>"),
                 videos="Glm4v"),
    )  # fmt: skip
    for row in rows:
        yield f"image-text-to-text/{row.kind}", row
    writer = {**_TEXT, "encoder_hidden_size": 32, "sep_token_id": 2, "is_decoder": True}
    blip = {"text_config": writer, "vision_config": _VIT}
    yield "image-to-text/blip", Prompted("blip", blip, "Blip", _SQUARE, "Blip")
    asked = Prompted("blip", blip, "Blip", _SQUARE, "Blip", head="VisualQuestionAnswering")
    yield "visual-question-answering/blip", asked
    git = {**_TEXT, "vision_config": _VIT}
    yield "image-to-text/git", Prompted("git", git, "CLIP", _CROPPED, "Git")
