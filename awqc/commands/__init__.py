"""The commands of the command line, one a file; each file has a ``command``."""
