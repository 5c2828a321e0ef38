"""Teacher logits on disk: captured once, read by every run."""
