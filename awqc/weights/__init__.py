"""What becomes of each weight: whether and how finely it is quantized, its scales, its codes."""
