"""The numerics of low-bit weights: formats, grids, rounding, statistics. Knows no graph."""
