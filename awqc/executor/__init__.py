"""Running a program over data for the passes: where batches, activations and memory are kept."""
