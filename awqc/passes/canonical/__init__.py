"""The rewrites of canonicalize, one concern a file."""
