"""Small random models of tasks that read images or audio, or generate, as folders to compile."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.folder_further import further_models
from benchmarks.folder_pipelines import PIPELINES, Pipelined
from benchmarks.folder_prompted import Prompted, prompted_models
from benchmarks.folder_speech import SPEAKING, Speaking

VOCABULARY = 128
_BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_VIT = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_RESNET = {"embedding_size": 8, "layer_type": "basic", **_STAGES}
_SWIN = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 32,
    "patch_size": 2,
}
_MIXED = {**_STAGES, "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 16}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 6,
    "backbone_config": {"model_type": "resnet", "out_features": ["stage4"], **_RESNET},
    "use_timm_backbone": False,
    "backbone": None,
}
_DINO = {"model_type": "dinov2", **_BLOCKS, "num_hidden_layers": 4, "image_size": 28,
         "patch_size": 14, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}  # fmt: skip
_WAVES = {
    **_BLOCKS,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "classifier_proj_size": 16,
}
_TEXT = {**_BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "bos_token_id": 0,
         "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
_DUAL = {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 16}
_SQUARE = {"size": {"height": 32, "width": 32}}
_CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
_CROP = {"crop_size": {"height": 32, "width": 32}}
_EDGE = {"size": {"shortest_edge": 64, "longest_edge": 120}}
_LARGER = {"size": {"height": 64, "width": 64}}
_DEEP = {**_VIT, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
_DPT = {**_DEEP, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16}  # fmt: skip
_SWIN_BACKBONE = {
    "model_type": "swin",
    **_SWIN,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_DINOV2 = {**_BLOCKS, "image_size": 28, "patch_size": 14}
_REGNET = {"embedding_size": 8, "layer_type": "y", "groups_width": 4, **_STAGES}
_MOBILEVIT = {"image_size": 64, "hidden_sizes": [16, 24, 32], "aspp_out_channels": 16,
              "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32]}  # fmt: skip
_MASKS = {"hidden_dim": 32, "mask_feature_size": 32, "feature_size": 32, "encoder_layers": 1,
          "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 48,
          "encoder_feedforward_dim": 48, "num_queries": 6,
          "backbone_config": _SWIN_BACKBONE}  # fmt: skip
_MASKFORMER = {"fpn_feature_size": 32, "mask_feature_size": 32, "backbone_config": _SWIN_BACKBONE,
               "decoder_config": {"model_type": "detr", **_DETR,
                                  "backbone_config": None}}  # fmt: skip
_EOMT = {**_BLOCKS, "image_size": 64, "patch_size": 16, "num_queries": 6, "num_blocks": 1,
         "mlp_ratio": 2}  # fmt: skip
_YOLOS = {**_BLOCKS, "image_size": [64, 96], "patch_size": 16, "num_detection_tokens": 6}
_RT_DETR = {
    "backbone_config": {"model_type": "rt_detr_resnet", **_RESNET,
                        "out_features": ["stage2", "stage3", "stage4"]},
    "encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "d_model": 32, "num_queries": 6, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "num_denoising": 0,
    "decoder_in_channels": [32, 32, 32], "hidden_expansion": 0.5, "backbone": None,
    "use_timm_backbone": False,
}  # fmt: skip
_DEPTH_ANYTHING = {"backbone_config": _DINO, "reassemble_hidden_size": 32, "patch_size": 14,
                   "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16,
                   "head_hidden_size": 16}  # fmt: skip
_AST = {**_BLOCKS, "max_length": 64, "num_mel_bins": 32}
_WHISPER = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 16,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48, "max_source_positions": 50, "vocab_size": VOCABULARY,
            "classifier_proj_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 1}  # fmt: skip
_SPOKEN = {**_WHISPER, "decoder_layers": 2, "max_target_positions": 48, "suppress_tokens": [],
           "begin_suppress_tokens": []}  # fmt: skip
_TRANSLATE = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
              "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48,
              "decoder_ffn_dim": 48, "max_position_embeddings": 48, "bos_token_id": 0,
              "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
       "num_heads": 4, "pad_token_id": 1, "eos_token_id": 2,
       "decoder_start_token_id": 1}  # fmt: skip
_GEMMA = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
          "layer_types": ["full_attention"] * 2}  # fmt: skip
_T5_GEMMA = {"encoder": _GEMMA, "decoder": {**_GEMMA, "cross_attention_hidden_size": 32},
             "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
             "decoder_start_token_id": 0}  # fmt: skip
_WRITER = {**_TEXT, "model_type": "bert", "is_decoder": True, "add_cross_attention": True}
_PAIR = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
         "is_encoder_decoder": True}  # fmt: skip
_READS_TEXT = {**_PAIR, "encoder": {**_TEXT, "model_type": "bert"}, "decoder": _WRITER}
_READS_IMAGES = {**_PAIR, "encoder": {**_VIT, "model_type": "vit"}, "decoder": _WRITER}
_READS_SPEECH = {**_PAIR, "encoder": {**_WAVES, "model_type": "wav2vec2"}, "decoder": _WRITER}
_LISTENS = {
    **_TRANSLATE,
    "input_feat_per_channel": 16,
    "input_channels": 1,
    "num_conv_layers": 2,
    "conv_channels": 32,
    "max_source_positions": 400,
    "max_target_positions": 48,
}
_MOONSHINE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
              "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 2,
              "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
              "max_position_embeddings": 48, "bos_token_id": 0, "eos_token_id": 2,
              "pad_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
_LAYER_NORMS = {**_WAVES, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
_FILTERS = {**_BLOCKS, "vocab_size": 32, "feature_projection_input_dim": 160,
            "conv_depthwise_kernel_size": 3}  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """A model that is made to be saved.

    Attributes:
        kind: transformers' type of its configuration.
        auto_class: what makes it of that.
        config: what differs from the type's usual configuration.
        processor: the class of its processor of images or audio.
        options: what differs from the processor's usual settings.
        both: the class of a processor that takes texts as well, or None.
        tokenizer: whether it has one beside the processor, or in place of it.
    """

    kind: str
    auto_class: str
    config: dict[str, Any]
    processor: str
    options: dict[str, Any]
    both: str | None = None
    tokenizer: bool = False

    def save(self, folder: Path) -> Any:
        """Write it into ``folder``, with its processor; returns the model."""
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(self.kind, **deepcopy(self.config))
        model = getattr(transformers, self.auto_class).from_config(config).eval()
        with torch.no_grad():  # Else norms are the identity, and deep outputs nothing.
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.rand_like(parameter)
        model.save_pretrained(folder)
        if self.tokenizer:
            word_tokenizer().save_pretrained(folder)
        if not self.processor:
            return model
        made = getattr(transformers, self.processor)(**self.options)
        if self.both is not None:
            made = getattr(transformers, self.both)(made, word_tokenizer())
        made.save_pretrained(folder)
        return model


def word_tokenizer() -> Any:
    """A tokenizer of the words ``t0``, ``t1``, …; each text ends with id 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = special + [f"t{number}" for number in range(VOCABULARY - len(special))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
    )


def _models() -> Iterator[tuple[str, Saved]]:
    heads = {
        "image-classification": ("ImageClassification", (
            ("vit", _VIT, "ViT", _SQUARE),
            ("resnet", _RESNET, "ConvNext", {"size": {"shortest_edge": 32}}),
            ("convnext", _STAGES, "ConvNext", {"size": {"shortest_edge": 32}}),
            ("swin", _SWIN, "ViT", _SQUARE),
            ("dinov2", _DINOV2, "Bit", _CROPPED),
            ("beit", _VIT, "Beit", _SQUARE),
            ("mobilenet_v2", {"depth_multiplier": 0.25}, "MobileNetV2", _CROPPED),
            ("regnet", _REGNET, "ConvNext", {"size": {"shortest_edge": 32}}),
        )),
        "image-feature-extraction": ("", (
            ("vit", _VIT, "ViT", _SQUARE),
            ("dinov2", _DINOV2, "Bit", _CROPPED),
            ("swin", _SWIN, "ViT", _SQUARE),
            ("convnext", _STAGES, "ConvNext", {"size": {"shortest_edge": 32}}),
            ("siglip_vision_model", _VIT, "Siglip", _SQUARE),
        )),
        "image-segmentation": ("SemanticSegmentation", (
            ("segformer", _MIXED, "Segformer", _LARGER),
            ("beit", {**_DEEP, "out_indices": [1, 2, 3, 4]}, "Beit", _LARGER),
            ("mobilevit", _MOBILEVIT, "MobileViT", {"size": {"shortest_edge": 64},
                                                    "crop_size": {"height": 64, "width": 64}}),
            ("dpt", _DPT, "DPT", _LARGER),
        )),
        "image-segmentation ": ("UniversalSegmentation", (
            ("mask2former", _MASKS, "Mask2Former", _LARGER),
            ("maskformer", _MASKFORMER, "MaskFormer", _LARGER),
            ("eomt", _EOMT, "Eomt", {"size": {"shortest_edge": 64, "longest_edge": 64},
                                     "do_pad": True}),
        )),
        "object-detection": ("ObjectDetection", (
            ("detr", _DETR, "Detr", _EDGE),
            ("conditional_detr", _DETR, "ConditionalDetr", _EDGE),
            ("yolos", _YOLOS, "Yolos", _EDGE),
            ("rt_detr", _RT_DETR, "RTDetr", _LARGER),
        )),
        "depth-estimation": ("DepthEstimation", (
            ("dpt", _DPT, "DPT", _LARGER),
            ("glpn", _MIXED, "GLPN", {}),
            ("depth_anything", _DEPTH_ANYTHING, "DPT", {"size": {"height": 56, "width": 56},
                                                        "ensure_multiple_of": 14}),
        )),
        "audio-classification": ("AudioClassification", (
            ("audio-spectrogram-transformer", _AST, "AST", {"num_mel_bins": 32, "max_length": 64}),
            ("wav2vec2", _WAVES, "Wav2Vec2", {}),
            ("hubert", _WAVES, "Wav2Vec2", {}),
            ("wavlm", _WAVES, "Wav2Vec2", {"return_attention_mask": True}),
            ("whisper", _WHISPER, "Whisper", {"feature_size": 16, "chunk_length": 1}),
        )),
        "automatic-speech-recognition": ("CTC", (
            ("wav2vec2", _WAVES, "Wav2Vec2", {}),
            ("hubert", _LAYER_NORMS, "Wav2Vec2", {"return_attention_mask": True}),
            ("wavlm", _WAVES, "Wav2Vec2", {}),
            ("sew", {**_WAVES, "squeeze_factor": 2}, "Wav2Vec2", {}),
            ("data2vec-audio", {**_WAVES, "conv_pos_kernel_size": 3}, "Wav2Vec2", {}),
            ("wav2vec2-bert", _FILTERS, "SeamlessM4T", {}),
        )),
        "zero-shot-image-classification": ("ZeroShotImageClassification", (
            ("clip", _DUAL, "CLIP", _CROPPED),
            ("siglip", _DUAL, "Siglip", _SQUARE),
            ("clipseg", {**_DUAL, "extract_layers": [1]}, "ViT", _SQUARE),
            ("chinese_clip", _DUAL, "ChineseCLIP", _CROPPED),
            ("metaclip_2", _DUAL, "CLIP", _CROPPED),
        )),
    }  # fmt: skip
    both = {"clip": "CLIP", "siglip": "Siglip", "clipseg": "CLIPSeg",
            "chinese_clip": "ChineseCLIP", "metaclip_2": "CLIP"}  # fmt: skip
    for task, (head, rows) in heads.items():
        auto = f"AutoModelFor{head}" if head else "AutoModel"
        suffix = "FeatureExtractor" if head in ("AudioClassification", "CTC") else "ImageProcessor"
        for kind, config, processor, options in rows:
            joint = f"{both[kind]}Processor" if kind in both else None
            saved = Saved(kind, auto, config, f"{processor}{suffix}", options, joint)
            yield f"{task.strip()}/{kind}", saved
    yield from _together()
    yield from _generating()


def _together() -> Iterator[tuple[str, Saved]]:
    """Models that read texts beside images or audio, and one that is told pieces of images."""
    text = {**_TEXT, "vocab_size": VOCABULARY}
    for kind, name in (("owlvit", "OwlViT"), ("owlv2", "Owlv2")):
        config = {"text_config": text, "vision_config": _VIT, "projection_dim": 32}
        yield f"zero-shot-object-detection/{kind}", Saved(
            kind, "AutoModelForZeroShotObjectDetection", config, f"{name}ImageProcessor",
            {**_SQUARE, **_CROP}, f"{name}Processor")  # fmt: skip
    heard = {"spec_size": 32, "patch_size": 4, "patch_stride": [4, 4], "num_mel_bins": 16,
             "window_size": 4, "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2],
             "patch_embeds_hidden_size": 16, "num_hidden_layers": 2}  # fmt: skip
    config = {"text_config": text, "audio_config": heard, "projection_dim": 16}
    yield "zero-shot-audio-classification/clap", Saved(
        "clap", "AutoModel", config, "ClapFeatureExtractor",
        {"feature_size": 16, "truncation": "rand_trunc", "padding": "repeatpad",
         "hop_length": 1024, "max_length_s": 1}, "ClapProcessor")  # fmt: skip
    pose = {"backbone_config": {"model_type": "vitpose_backbone", **_BLOCKS, "image_size": [64, 48],
                                "patch_size": [16, 16], "out_indices": [2]},
            "num_labels": 5}  # fmt: skip
    yield "keypoint-detection/vitpose", Saved(
        "vitpose", "AutoModelForPoseEstimation", pose, "VitPoseImageProcessor",
        {"size": {"height": 64, "width": 48}})  # fmt: skip
    yield (
        "object-detection/table-transformer",
        Saved(
            "table-transformer", "AutoModelForObjectDetection", _DETR, "DetrImageProcessor", _EDGE
        ),
    )


def _generating() -> Iterator[tuple[str, Saved]]:
    """Encoder-decoders, most of which `generate` calls in a loop."""
    text: tuple[tuple[str, dict[str, Any]], ...] = (
        *((kind, _TRANSLATE) for kind in (
            "bart", "marian", "mbart", "m2m_100", "pegasus", "pegasus_x", "blenderbot",
            "blenderbot-small", "plbart", "mvp")),
        ("bigbird_pegasus", {**_TRANSLATE, "attention_type": "original_full"}),
        ("fsmt", {**_TRANSLATE, "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY}),
        ("nllb-moe", {**_TRANSLATE, "num_experts": 4}),
        *((kind, _T5) for kind in ("t5", "mt5", "umt5", "longt5")),
        ("t5gemma", _T5_GEMMA),
        ("encoder-decoder", _READS_TEXT),
    )  # fmt: skip
    for kind, config in text:
        saved = Saved(kind, "AutoModelForSeq2SeqLM", config, "", {}, tokenizer=True)
        yield f"text2text-generation/{kind}", saved
    for task, head in (
        ("text-classification", "SequenceClassification"),
        ("question-answering", "QuestionAnswering"),
    ):
        saved = Saved("bart", f"AutoModelFor{head}", _TRANSLATE, "", {}, tokenizer=True)
        yield f"{task}/bart", saved
    waves = "Wav2Vec2FeatureExtractor"
    speech = (
        ("whisper", _SPOKEN, "WhisperFeatureExtractor", {"feature_size": 16, "chunk_length": 1}),
        ("speech_to_text", _LISTENS, "Speech2TextFeatureExtractor",
         {"feature_size": 16, "num_mel_bins": 16}),
        ("moonshine", _MOONSHINE, waves, {"return_attention_mask": True}),
        ("speech-encoder-decoder", _READS_SPEECH, waves, {"return_attention_mask": True}),
    )  # fmt: skip
    for kind, config, processor, options in speech:
        saved = Saved(kind, "AutoModelForSpeechSeq2Seq", config, processor, options, tokenizer=True)
        yield f"automatic-speech-recognition/{kind}", saved
    saved = Saved("vision-encoder-decoder", "AutoModelForImageTextToText", _READS_IMAGES,
                  "ViTImageProcessor", _SQUARE, tokenizer=True)  # fmt: skip
    yield "image-to-text/vision-encoder-decoder", saved


MODELS: dict[str, Saved | Prompted | Pipelined | Speaking] = {
    **dict(_models()),
    **{row[0]: Saved(*row[1:]) for row in further_models()},
    **dict(prompted_models()),
    **PIPELINES,
    **SPEAKING,
}
"""By task and type of model."""
