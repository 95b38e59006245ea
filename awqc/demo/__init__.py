"""The demonstration: a small network, trained in seconds, compiled and explained step by step."""
