"""What happens around a training run: the recipe, its directory, checkpoints, logs."""
