"""One file per loss: float32 nats per token, unreduced, on one chunk of logits."""
