"""Tuning quantized weights on the outputs of the whole model."""
