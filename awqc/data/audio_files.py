"""Audio out of files, as models read it: one channel, at the rate that they want."""

from __future__ import annotations

import wave
from typing import Any

import numpy as np

from awqc.data.blobs import MediaFile, is_there, open_binary
from awqc.errors import CalibrationError, UsageError

Samples = np.ndarray[Any, np.dtype[np.float32]]


def read_audio(path: MediaFile, rate: int) -> tuple[Samples, int]:
    """The mean of the channels, float32 ``(samples,)``, at ``rate``, and the file's own rate.

    Files of plain WAV need nothing else; others are read by soundfile.

    Raises:
        UsageError: there is no such file, or soundfile is needed and missing.
        CalibrationError: it is no audio, is damaged, or is empty.
    """
    if not is_there(path):
        raise UsageError(f"{path}: there is no such audio file")
    found = _read_wave(path) or _read_other(path)
    samples, own = found
    if not samples.size:
        raise CalibrationError(f"{path}: the audio is empty; leave it out")
    if not np.isfinite(samples).all():
        raise CalibrationError(f"{path}: the audio holds NaN or infinite values; leave it out")
    return resampled(samples.mean(axis=1, dtype=np.float32), own, rate), own


def resampled(samples: Samples, own: int, rate: int) -> Samples:
    """``samples`` of ``own`` a second as they would be at ``rate``.

    Frequencies that ``rate`` cannot hold are cut off: x -> its Fourier transform, cut or filled
    up with zeros -> back, with as many samples as the time has at ``rate``.
    """
    count = round(len(samples) * rate / own)
    if own == rate or count == 0:
        return samples
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    return (np.fft.irfft(spectrum, count) * (count / len(samples))).astype(np.float32)


def _read_wave(path: MediaFile) -> tuple[Samples, int] | None:
    """Samples ``(time, channels)`` in [-1, 1] and the rate; None where it is no plain WAV."""
    try:
        with open_binary(path) as opened, wave.open(opened, "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        return None
    if width not in (1, 2, 3, 4) or rate < 1:
        return None
    whole = raw[: len(raw) // (width * channels) * (width * channels)]
    data = np.frombuffer(whole, np.uint8).reshape(-1, channels, width)
    if width == 1:
        return (data[..., 0].astype(np.float32) - 128) / np.float32(128), rate
    padded = np.zeros((*data.shape[:2], 4), np.uint8)
    padded[..., 4 - width :] = data  # the highest bytes of a little-endian int32
    return padded.view("<i4")[..., 0].astype(np.float32) / np.float32(2**31), rate


def _read_other(path: MediaFile) -> tuple[Samples, int]:
    try:
        import soundfile
    except ImportError:
        raise UsageError(
            f"{path}: is no plain WAV file, and other audio is read by soundfile, which is not "
            "installed: pip install 'awqc[audio]', or convert it to 16-bit WAV"
        ) from None
    try:
        with open_binary(path) as file:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise CalibrationError(
            f"{path}: is no audio that can be read, or is damaged: {error}; leave it out"
        ) from error
    return samples, int(rate)
