"""Asks every question of every dashboard, of a real Prometheus beside a real job."""
