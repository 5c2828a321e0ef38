"""One file per signal: how the teacher is truncated and tempered before a loss sees it."""
