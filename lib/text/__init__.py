"""Text: read, cut into tokens and windows, and how low the loss on it can go."""
