"""Read a `torch.export` archive (``.pt2``) by a list of what is allowed.

torch's own loader unpickles, imports, and evaluates text of the file. Here the file is opened
once and read by code that knows zip members, tensors, a graph and its shapes, and nothing else.
What it has read is made anew: tensors from raw bytes, expressions as sympy objects, operators
looked up by their schema, names that are plain identifiers. Only that is handed to torch, which
never sees the file. Text that no rule covers is refused.
"""
