"""Sweeps: a question becomes a plan, a plan a queue, and workers empty it."""
