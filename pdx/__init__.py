"""pdx: a design-space sweep framework for pre-training distillation of language models."""

__version__ = "0.1.0"
