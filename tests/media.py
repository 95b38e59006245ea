"""Images and audio for tests, written as files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int = 6, mode: str = "RGB") -> list[Path]:
    """Random images ``0.png``, ``1.png``, … of several sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        pixels = random.integers(256, size=(40 + index, 60, 4), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    return paths


def tone(rate: int, seconds: float, pitch: float = 440.0) -> np.ndarray:
    """float32 in [-0.5, 0.5]."""
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)).astype(
        np.float32
    )


def write_wave(path: Path, samples: np.ndarray, rate: int, width: int = 2) -> Path:
    """``samples``, ``(time,)`` or ``(time, channels)`` in [-1, 1], as ``width`` bytes each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = samples if samples.ndim == 2 else samples[:, None]
    whole = np.round(table * (2 ** (8 * width - 1) - 1)).astype("<i4")
    if width == 1:
        raw = (whole + 128).astype(np.uint8).tobytes()
    else:
        raw = np.ascontiguousarray(
            whole.view(np.uint8).reshape(*whole.shape, 4)[..., :width]
        ).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(table.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


def write_speech(folder: Path, count: int = 6, rate: int = 16000) -> list[Path]:
    """Tones ``0.wav``, ``1.wav``, … of several lengths."""
    return [
        write_wave(
            folder / f"{index}.wav", tone(rate, 0.1 + 0.02 * (index % 3), 200 + 90 * index), rate
        )
        for index in range(count)
    ]
