"""Other libraries that use checkpoints; each module needs the library that it is named after."""
