"""Find the folder of a checkpoint by name."""
