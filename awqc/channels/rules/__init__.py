"""The equations of operations, a file a family. Importing this package registers them.

Each comment or docstring gives the algebra with ``s`` the scale: an operation may be crossed
when ``f(x / s) = f(x) / s``, and a tensor of the program absorbs when changing it alone does it.
"""

from awqc.channels.rules import elementwise, moving, norms, ordering, products, reducing, weights

__all__ = ["elementwise", "moving", "norms", "ordering", "products", "reducing", "weights"]
