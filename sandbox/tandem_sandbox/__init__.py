"""The code sandbox: runs and judges untrusted programs in containers that are used once."""
