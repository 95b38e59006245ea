"""The machine that awqc runs on: what the process shares with its caller."""
