"""Other people's models: what their parameters are, and how they take a recipe's values."""
