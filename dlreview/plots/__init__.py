"""Pictures: grids of samples, attention maps, curves."""
