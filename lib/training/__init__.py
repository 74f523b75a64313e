"""Training: the loop, one step, what moves the weights, and the figure that decides."""
