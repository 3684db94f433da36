"""Reference pages that need more than one part: the commands, and the HTTP APIs."""
