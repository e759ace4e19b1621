"""The command `metriplex` and its subcommands, which print and run in the main thread."""
