"""`python -m tandem_local` is the `tandem` command."""

from tandem_local.cli import main

main()
