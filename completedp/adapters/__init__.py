"""External models: the inventory of their parameters, and a recipe's values on them."""
