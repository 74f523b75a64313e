"""What a run leaves for others: executed notebooks, pages, README blocks, exported models."""
