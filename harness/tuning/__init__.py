"""The search for better engine flags: space, model, trials, confirmation, result."""
