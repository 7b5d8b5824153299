"""Training: networks, corruption, recipes, export, evaluation and cards of skipae checkpoints."""
