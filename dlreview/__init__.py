"""Deep learning review: every system written from its equations, trained from a recipe, proved."""
