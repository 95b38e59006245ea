"""Artifacts: what a program is written as, one target a file."""
