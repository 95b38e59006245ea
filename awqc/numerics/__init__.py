"""The numerics of low-bit weights: formats, qparams, rounding, statistics. Knows no graph."""
