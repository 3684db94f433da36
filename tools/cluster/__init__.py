"""A real Kubernetes for tests, on one bare Linux machine: see docs/test-cluster.md."""
