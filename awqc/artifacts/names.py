"""Names of what a compile writes into its folder."""

from __future__ import annotations

MODEL = "model.onnx"
"""The QDQ form; in the folder `TUNED` the name of onnxruntime's own form."""
TUNED = "ort"
ARCHIVE = "model.pt2"
GGUF = "model.gguf"
REPORT = "report.json"
BUNDLE_REPORT = "bundle.json"
"""What is told of a model of several graphs, each in a folder of its own."""
ENCODER_MODEL = "encoder_model.onnx"
MERGED_MODEL = "decoder_model_merged.onnx"
"""An encoder, and a decoder with its first call in it, as the ecosystem calls them."""
TEXT_TOWER, IMAGE_TOWER, AUDIO_TOWER = "text_model.onnx", "vision_model.onnx", "audio_model.onnx"
"""The towers of a model that compares texts with images or audio, as the ecosystem calls them."""
VISION_MODEL, EMBED_MODEL = "vision_encoder.onnx", "embed_tokens.onnx"
"""What makes rows of images and of tokens for such a decoder, as the ecosystem calls them."""
