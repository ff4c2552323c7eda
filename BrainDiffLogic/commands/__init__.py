"""The command line of BrainDiff, one module a subcommand."""
