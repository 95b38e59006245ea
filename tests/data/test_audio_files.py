"""Audio out of files: widths, channels, rates, and files that are none."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from awqc.data.audio_files import read_audio, resampled
from awqc.errors import AwqcError, CalibrationError, UsageError
from tests.media import tone, write_wave

RATE = 8000


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_plain_wav_is_read(width: int, tmp_path: Path) -> None:
    wanted = tone(RATE, 0.05)
    samples, own = read_audio(write_wave(tmp_path / "a.wav", wanted, RATE, width), RATE)
    assert own == RATE
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, wanted, atol=2 ** (1 - 8 * width) + 1e-6)


def test_channels_become_their_mean(tmp_path: Path) -> None:
    left = tone(RATE, 0.05)
    path = write_wave(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), RATE)
    np.testing.assert_allclose(read_audio(path, RATE)[0], left / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "rate"), [(8000, 16000), (44100, 16000), (16000, 16000), (48000, 8000)]
)
def test_another_rate_keeps_the_sound(own: int, rate: int) -> None:
    made = resampled(tone(own, 0.1, pitch=500), own, rate)
    wanted = tone(rate, 0.1, pitch=500)
    assert len(made) == len(wanted)
    middle = slice(len(wanted) // 8, -len(wanted) // 8)
    np.testing.assert_allclose(made[middle], wanted[middle], atol=0.01)


def test_what_the_new_rate_cannot_hold_is_cut_off() -> None:
    assert np.abs(resampled(tone(16000, 0.1, pitch=6000), 16000, 8000)).max() < 0.01


def test_other_formats_are_read_by_soundfile(tmp_path: Path) -> None:
    import soundfile

    for name, subtype in {"a.flac": "PCM_16", "a.wav": "FLOAT"}.items():
        soundfile.write(str(tmp_path / name), tone(RATE, 0.05), RATE, subtype=subtype)
        samples, own = read_audio(tmp_path / name, RATE)
        assert own == RATE
        np.testing.assert_allclose(samples, tone(RATE, 0.05), atol=1e-4)


def absent(path: Path) -> None: ...
def empty(path: Path) -> None:
    write_wave(path, np.zeros(0, np.float32), RATE)


def text(path: Path) -> None:
    path.write_text("no audio")


def infinite(path: Path) -> None:
    import soundfile

    soundfile.write(str(path), np.array([0, np.inf, 0]), RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (absent, UsageError, "there is no such audio file"),
        (empty, CalibrationError, "the audio is empty; leave it out"),
        (text, CalibrationError, "is no audio that can be read"),
        (infinite, CalibrationError, "holds NaN or infinite values"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    make: Callable[[Path], None], kind: type[AwqcError], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "clip.wav")
    with pytest.raises(kind, match=rf"clip\.wav: .*{message}"):
        read_audio(tmp_path / "clip.wav", RATE)


def test_without_soundfile_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(tmp_path / "clip.flac")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'awqc\[audio\]'"):
        read_audio(tmp_path / "clip.flac", RATE)
