"""Floor 9: the command line; every command is one library call, its result rendered by `frame`."""
