"""The `metriplex` command and its subcommands. They print, and run in the main thread."""
