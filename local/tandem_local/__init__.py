"""The `tandem` command: runs a job's pods as processes on one machine."""
