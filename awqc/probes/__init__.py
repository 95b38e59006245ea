"""Inputs of other sizes than the example's, to compare a model and what is made of it."""
