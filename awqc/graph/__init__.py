"""The graph: what nodes tell, matrix products in it, sites for scales, its canonical text."""
