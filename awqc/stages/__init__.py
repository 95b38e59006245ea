"""What a compile does before and after its passes; `awqc.compiler` is the order of it."""
