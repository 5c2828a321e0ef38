"""Everything pdx raises on purpose.

Messages read ``key=value: what is wrong; what is allowed; what to do.``
"""


class PdxError(Exception):
    """Root of all errors that a user can mend; the command line prints it without a traceback."""


class ConfigError(PdxError, ValueError):
    """A key, a value or a combination of values that cannot be run."""


class DataError(PdxError, ValueError):
    """A corpus, a split or a tokenizer that cannot be used."""


class StoreError(PdxError, RuntimeError):
    """A logits store that is missing, altered, or was captured for something else."""


class SweepError(PdxError, RuntimeError):
    """A sweep that is not what its file says, or that cannot be found."""


class TrackingError(PdxError, RuntimeError):
    """An MLflow store that cannot be reached."""


class Diverged(PdxError, ArithmeticError):
    """Training left the finite numbers: a measurement, not a fault."""


class RankLost(PdxError, RuntimeError):
    """A process of a run over several is gone: as where the only process of a run is."""
