"""``python -m skipae_train``."""

from skipae_train.cli import main

main()
