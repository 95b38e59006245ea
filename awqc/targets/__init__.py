"""What runs a compiled model, and what each of these takes: one row of capabilities a target."""
