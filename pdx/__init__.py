"""pdx: a design-space sweep framework for pre-training distillation of language models."""

import os

# Threads that wait for work sleep instead of spinning; read by OpenMP when torch is imported. On a
# machine with other work, two spinning threads trained 9 to 12 times slower than two that sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
