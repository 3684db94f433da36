"""The job's own web page: what it shows, and how the master serves it."""
