"""Choosing codes and ranges so that a product's outputs, not its weights, change least."""
