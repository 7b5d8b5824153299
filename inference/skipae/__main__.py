"""``python -m skipae``."""

from skipae.cli import main

main()
