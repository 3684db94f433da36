"""The replay buffer's tables and what reads and writes them."""
