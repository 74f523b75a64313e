"""A run on disk: its folder, finding it, its checkpoints, the trained model in it."""
