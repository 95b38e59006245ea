"""Calibration data, whatever it comes from, as batches of a program's inputs."""
