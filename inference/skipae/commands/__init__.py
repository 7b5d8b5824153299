"""One module per command of ``skipae``, loaded when it is called; each has a ``click.Command`` named ``command``."""
