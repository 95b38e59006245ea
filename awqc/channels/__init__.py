"""Channel flow: where a scale may go, derived from the dataflow of the graph.

To divide a value ``x`` by a scale for each channel, every operation that makes or reads ``x``
must keep the model's outputs as they are. Each element of each value gets a *label*: the
signed index of the scale that multiplies (+) or divides (-) it, or 0. Each operation states
an equation between the labels of its operands and results (`rules`). Labels spread from the
inputs of the products until all equations hold (`flow`). Where two labels meet they are
merged: a *tie*. Where an equation cannot hold, the labels concerned are *pinned* to the
scale 1, with the reason. Tensors of the program that end up with labels are the ones to
change; if every label ends up pinned, the site is refused.
"""
