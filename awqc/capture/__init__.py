"""Turn what the user names into a `Program`: a module, a file, a folder."""
