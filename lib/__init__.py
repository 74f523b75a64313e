"""The laboratory's library: the model, the loop, and what the notebooks call."""
