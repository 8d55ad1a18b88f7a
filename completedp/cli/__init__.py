"""The command line: a thin caller of the Python API, one file per verb."""
