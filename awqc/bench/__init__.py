"""Measure a compiled folder beside its original."""
