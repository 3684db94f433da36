"""The subcommands of `kubectl tandem`, one module each."""
