"""What awqc leaves on disk: put in place whole, and nothing that others wrote is lost.

`target` says what may be replaced, `manifest` what awqc wrote there, `publish` puts it in place
by `exchange`, `claims` are the folders in which it is made, and `leftovers` removes those that a
killed process left.
"""
