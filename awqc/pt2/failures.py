"""The two ways in which an archive cannot be read."""

from __future__ import annotations


class NotAllowedError(Exception):
    """The archive holds something that is not on the list; the message says what."""


class DamagedError(Exception):
    """The archive is not as torch writes it; the message says what is wrong."""
