"""Images out of files, as models read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from awqc.data.blobs import MediaFile, is_there, open_binary
from awqc.errors import CalibrationError, UsageError
from awqc.huggingface.processor import require_pillow
from awqc.machine.process import quiet_libraries

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, whatever a file is called: Pillow has other programs run for some of the others."""

MOST_PIXELS = 2**26
"""Pixels of an image; more is no photograph, and its decoding takes a gigabyte."""


def read_image(path: MediaFile) -> tuple[Any, str]:
    """The image in RGB, turned as its camera was held, and what it was before, such as ``RGBA``.

    Raises:
        UsageError: there is no such file, or Pillow is missing.
        CalibrationError: it is no image, is cut short, or is too large.
    """
    require_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not is_there(path):
        raise UsageError(f"{path}: there is no such image")
    try:
        with (
            open_binary(path) as file,
            quiet_libraries(),
            Image.open(file, formats=FORMATS) as opened,
        ):
            if opened.width * opened.height > MOST_PIXELS:
                raise CalibrationError(
                    f"{path}: has {opened.width}x{opened.height} pixels; give images of "
                    f"{MOST_PIXELS // 10**6} million pixels at most"
                )
            opened.load()
            turned = ImageOps.exif_transpose(opened)
            return _in_eight_bits(turned).convert("RGB"), opened.mode
    except UnidentifiedImageError as error:
        raise CalibrationError(
            f"{path}: is no image that can be read; give whole files of {', '.join(FORMATS)}"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CalibrationError(
            f"{path}: the image is damaged or cut short: {error}; leave it out"
        ) from error


def _in_eight_bits(image: Any) -> Any:
    """``image``; of 16 bits a pixel the upper eight, where Pillow would make all else white."""
    if not image.mode.startswith("I;16"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
