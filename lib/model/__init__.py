"""GPT-2: the model itself, what it writes, what goes on inside it, what it can recite."""
