"""What a compile can be told: each option declared once, with its help.

The command line, the checks of Python's keywords and docs/options.md are made from the fields of
`Options`. Reading options imports no torch and builds nothing; `chosen_passes` does.
"""

from awqc.options.compile_options import Options as Options
from awqc.options.compile_options import parse_options as parse_options
