"""The processor in a folder is that of the model, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from awqc.errors import UsageError
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.processor import Processor
from awqc.program import AUDIO, IMAGE


def test_files_for_images_are_none_for_audio_and_the_other_way_round(tmp_path: Path) -> None:
    """transformers would make one of its own of them, by the type of the model."""
    import transformers

    images, audio = HFFolder(tmp_path / "images"), HFFolder(tmp_path / "audio")
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(images.path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(audio.path)
    assert Processor.of(images, (IMAGE,)).reads == (IMAGE,)
    assert Processor.of(audio, (AUDIO,)).rate == 16000
    with pytest.raises(UsageError, match=r"images: .* are for image, .*; the model reads audio"):
        Processor.of(images, (AUDIO,))
    with pytest.raises(UsageError, match=r"audio: .* are for audio, .*; the model reads image"):
        Processor.of(audio, (IMAGE,))
