"""A model of several graphs compiled part by part, and verified as a whole."""
