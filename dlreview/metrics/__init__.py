"""Numbers that say how good a network or its samples are."""
