"""The training of one subnet by a recipe."""
