"""The subcommands of `tandem`, one module each."""
