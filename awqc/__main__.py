"""``python -m awqc``: the command line."""

from awqc.cli import main

main()
