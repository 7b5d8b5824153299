"""From the name of a checkpoint to its folder."""
