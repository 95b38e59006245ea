"""A model of several graphs: its parts, what flows from one to the next, and its compile."""
