"""Compare the original, the quantized and the exported model."""
