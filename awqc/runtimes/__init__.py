"""What runs a compiled model; each runtime is a file, see `awqc.runtimes.base`."""
