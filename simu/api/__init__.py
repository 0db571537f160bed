"""The suite from Python, on the functions that the command line runs on; all of it is importable from `simu`."""
