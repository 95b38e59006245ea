"""What flows when a model runs: calls of its modules, and the axes that their tensors share."""
