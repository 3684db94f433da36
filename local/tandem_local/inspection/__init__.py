"""How a job is, told in the same words whether it runs on this machine or on a cluster."""
