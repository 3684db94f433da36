"""Strikes at running jobs, and checks that nothing is lost: `python -m bench.chaos`."""
