"""`Bundle`: a model of several graphs, and what flows from one to the next."""
