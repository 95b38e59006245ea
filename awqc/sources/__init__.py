"""Whatever a model comes from, opened as a program."""
