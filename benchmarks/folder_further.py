"""Further small random models of images, audio and texts, as folders to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BLOCKS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_RESNET: dict[str, Any] = {"embedding_size": 8, "layer_type": "basic", **_STAGES}
_SQUARE, _LARGER = ({"size": {"height": side, "width": side}} for side in (32, 64))
_CROPPED: dict[str, Any] = {
    "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
}  # fmt: skip
_CUT: dict[str, Any] = {
    "size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64},
}  # fmt: skip
_WINDOWS: dict[str, Any] = {
    "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32,
    "patch_size": 2,
}  # fmt: skip
_CLASSIFY: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("levit", {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2],
               "depths": [1, 1, 1], "key_dim": [8, 8, 8],
               "architectures": ["LevitForImageClassification"]}, "Levit", _CUT),
    ("poolformer", _STAGES, "PoolFormer", _CUT),
    ("focalnet", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1],
                  "hidden_sizes": [16, 32], "focal_levels": [2, 2], "focal_windows": [3, 3]},
     "Bit", _CROPPED),
    ("mobilevitv2", {"image_size": 64, "width_multiplier": 0.25}, "MobileViT", _CUT),
    ("pvt_v2", {"image_size": 64, "num_attention_heads": [1, 2, 2, 2], **_STAGES}, "Pvt", _LARGER),
    ("swinv2", _WINDOWS, "ViT", _SQUARE),
    ("bit", {"embedding_size": 8, "num_groups": 4, **_STAGES}, "Bit", _CROPPED),
    ("hiera", {"embed_dim": 16, "image_size": [32, 32], "depths": [1, 1], "num_heads": [1, 2],
               "query_stride": [2, 2], "masked_unit_size": [4, 4], "patch_stride": [4, 4],
               "patch_size": [7, 7], "patch_padding": [3, 3], "num_query_pool": 1},
     "Bit", _CROPPED),
    ("swiftformer", {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
     "ViT", _LARGER),
    ("perceiver", {"num_latents": 8, "d_latents": 32, "d_model": 64, "num_blocks": 1,
                   "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
                   "num_cross_attention_heads": 2, "image_size": 32,
                   "architectures": ["PerceiverForImageClassificationLearned"]},
     "Perceiver", {**_SQUARE, "crop_size": {"height": 32, "width": 32}}),
)  # fmt: skip
_PYRAMID: dict[str, Any] = {
    "backbone_config": {"model_type": "rt_detr_resnet", **_RESNET,
                        "out_features": ["stage2", "stage3", "stage4"]},
    "encoder_hidden_dim": 32, "d_model": 32, "encoder_in_channels": [16, 24, 32],
    "feat_strides": [8, 16, 32], "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "decoder_in_channels": [32, 32, 32], "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "decoder_layers": 2, "num_queries": 6,
    "anchor_image_size": [64, 64], "encoder_layers": 1,
}  # fmt: skip
_NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
_WAVES: dict[str, Any] = {
    **_BLOCKS, "conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 32, "classifier_proj_size": 16,
}  # fmt: skip
_FILTERED: dict[str, Any] = {
    **_BLOCKS, "num_key_value_heads": 4, "num_mel_bins": 16, "subsampling_conv_channels": 8,
    "conv_kernel_size": 5,
}  # fmt: skip
_ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_TEXT: dict[str, Any] = {
    **_BLOCKS, **_ENDS, "vocab_size": 128, "max_position_embeddings": 40,
}  # fmt: skip
_PAIR: dict[str, Any] = {**_ENDS, "decoder_start_token_id": 0, "is_encoder_decoder": True}
_WRITES: dict[str, Any] = {
    "vocab_size": 128, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48, "max_position_embeddings": 48, "is_decoder": True,
    "add_cross_attention": True, **_ENDS,
}  # fmt: skip
_PATCHES: dict[str, Any] = {
    "text_config": {"vocab_size": 136, "hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                    "num_heads": 4, "pad_token_id": 1, "eos_token_id": 2,
                    "decoder_start_token_id": 0},
    "vision_config": {"hidden_size": 32, "patch_embed_hidden_size": 768, "d_ff": 48, "d_kv": 8,
                      "num_hidden_layers": 2, "num_attention_heads": 4, "seq_len": 64,
                      "initializer_range": 0.02},
    "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip

Row = tuple[str, str, str, dict[str, Any], str, dict[str, Any], str | None, bool]
"""Name, type of the configuration, head, configuration, processor, its settings, that of both kinds
of data, and whether there is a tokenizer beside it."""


def further_models() -> Iterator[Row]:
    """By task and type of model."""
    for kind, config, images, options in _CLASSIFY:
        yield _images("image-classification", kind, "ImageClassification", config, images, options)
    for kind, config, images, options in (
        ("dinov3_vit", {**_BLOCKS, "image_size": 32, "patch_size": 8}, "DINOv3ViT", _SQUARE),
        ("dinov3_convnext", {**_STAGES, "image_size": 64}, "DINOv3ViT", _LARGER),
    ):
        yield _images("image-feature-extraction", kind, "", config, images, options)
    backbone = {"model_type": "swin", **_WINDOWS, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2],
                "image_size": 64,
                "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
    upernet = {"backbone_config": backbone, "hidden_size": 16, "pool_scales": [1, 2],
               "use_auxiliary_head": False}  # fmt: skip
    yield _images("image-segmentation", "upernet", "SemanticSegmentation", upernet, "Segformer",
                  _LARGER)  # fmt: skip
    for kind in ("rt_detr_v2", "d_fine"):
        yield _images("object-detection", kind, "ObjectDetection", _PYRAMID, "RTDetr", _LARGER)
    prompted = {"backbone_config": {"model_type": "dinov2", **_BLOCKS, "num_hidden_layers": 4,
                                    "image_size": 28, "patch_size": 14,
                                    "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
                "reassemble_hidden_size": 32, "patch_size": 14, "head_hidden_size": 16,
                **_NECK}  # fmt: skip
    yield _images("depth-estimation", "prompt_depth_anything", "DepthEstimation", prompted,
                  "PromptDepthAnything", {"size": {"height": 56, "width": 56},
                                          "ensure_multiple_of": 14})  # fmt: skip
    yield from _spoken()
    yield from _written()


def _images(
    task: str, kind: str, head: str, config: dict[str, Any], images: str, options: dict[str, Any]
) -> Row:
    name, head = f"{task}/{kind}", f"For{head}" if head else ""
    return name, kind, f"AutoModel{head}", config, f"{images}ImageProcessor", options, None, False


def _spoken() -> Iterator[Row]:
    waves = "Wav2Vec2FeatureExtractor"
    relative = {**_WAVES, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 3}
    squeezed = {**_WAVES, "squeeze_factor": 2, "max_position_embeddings": 32, "position_buckets": 8}
    rows: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("wav2vec2-conformer", relative, {"return_attention_mask": True}),
        ("sew-d", squeezed, {"return_attention_mask": True}),
        ("unispeech-sat", _WAVES, {}),
    )
    for task, head in (("automatic-speech-recognition", "CTC"),
                       ("audio-classification", "AudioClassification")):  # fmt: skip
        for kind, config, options in rows:
            name = f"{task}/{kind}"
            yield name, kind, f"AutoModelFor{head}", config, waves, options, None, False
    for kind in ("parakeet", "lasr"):
        config = {"vocab_size": 32, "pad_token_id": 0,
                  "encoder_config": {"model_type": f"{kind}_encoder", **_FILTERED}}  # fmt: skip
        yield (
            f"automatic-speech-recognition/{kind}_ctc", f"{kind}_ctc", "AutoModelForCTC", config,
            f"{kind.title()}FeatureExtractor", {"feature_size": 16}, None, False,
        )  # fmt: skip


def _written() -> Iterator[Row]:
    """What reads or writes text beside images."""
    head, task = "AutoModelForZeroShotImageClassification", "zero-shot-image-classification"
    vision = {**_BLOCKS, "image_size": 32, "patch_size": 8}
    seeing = {"text_config": {**_TEXT, "project_dim": 16}, "vision_config": vision,
              "projection_dim": 16}  # fmt: skip
    yield (f"{task}/altclip", "altclip", head, seeing, "CLIPImageProcessor", _CROPPED,
           "AltCLIPProcessor", False)  # fmt: skip
    patches = {**_BLOCKS, "patch_size": 16, "num_patches": 256}
    yield (f"{task}/siglip2", "siglip2", head, {"text_config": _TEXT, "vision_config": patches},
           "Siglip2ImageProcessor", {}, "Siglip2Processor", False)  # fmt: skip
    drawn = {"initializer_range": 0.3}  # by default all images look alike
    looking = {"text_config": {**_TEXT, "encoder_hidden_size": 32},
               "vision_config": {**vision, **drawn}, "projection_dim": 16, **drawn}  # fmt: skip
    yield (f"{task}/blip", "blip", head, looking, "BlipImageProcessor", _SQUARE, "BlipProcessor",
           False)  # fmt: skip
    task, head = "image-to-text", "AutoModelForImageTextToText"
    for name, encoder, decoder, images in (
        ("donut", {"model_type": "donut-swin", **_WINDOWS}, "mbart", "Donut"),
        ("trocr", {"model_type": "deit", **vision}, "trocr", "ViT"),
    ):
        config = {**_PAIR, "encoder": encoder, "decoder": {"model_type": decoder, **_WRITES}}
        yield (f"{task}/{name}", "vision-encoder-decoder", head, config,
               f"{images}ImageProcessor", _SQUARE, None, True)  # fmt: skip
    yield (f"{task}/pix2struct", "pix2struct", head, _PATCHES, "Pix2StructImageProcessor",
           {"max_patches": 16}, "Pix2StructProcessor", False)  # fmt: skip
    blocks = {**_PAIR, "vocab_size": 128, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
              "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48,
              "decoder_ffn_dim": 48, "max_position_embeddings": 48, "block_size": 2,
              "attention_type": "block_sparse", "num_random_blocks": 1}  # fmt: skip
    yield ("text2text-generation/bigbird_pegasus-sparse", "bigbird_pegasus",
           "AutoModelForSeq2SeqLM", blocks, "", {}, None, True)  # fmt: skip
