"""LightningModules: the objective as a pure function, then the class that trains it."""
