"""The machine: memory, threads, devices, progress, and what a process shares with its caller."""
