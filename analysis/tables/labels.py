"""What a metric, the size axis and a slice are called, in tables and figures alike."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from ..questions.results import Results
from ..runs.labels import SIZE_NAME, human

METRIC_LABELS = {
    "val/loss": "held-out loss (nats/token)",
    "test/loss": "test loss (nats/token)",
    "val/teacher_kl": "KL(teacher || student)\n(nats/token)",
    "val/top1_agreement": "top-1 agreement with\nthe teacher (share)",
    "val/ece": "expected calibration\nerror (share)",
    "val/bits_per_byte": "held-out bits per byte",
    "flops_train_exact": "student training FLOPs",
}


def size_label(results: Results) -> str:
    """What the size axis counts."""
    own = results.definitions["N"].startswith(SIZE_NAME)
    return "student size (non-embedding)" if own else f"N: {results.definitions['N']}"


def metric_label(metric: str) -> str:
    """A metric in words, with its unit."""
    return METRIC_LABELS.get(metric, f"{metric} (nats/token)" if "loss" in metric else metric)


def slice_name(results: Results) -> str:
    """What is held fixed along the size axis, in words."""
    usual = results.chosen[(results.chosen["token_multiple"] - 1).abs() < 0.005]
    usual = usual if len(usual) else results.chosen
    tokens = usual["num_tokens"].astype(float)
    ratio = tokens / usual[SIZE_NAME].astype(float)
    if tokens.max() <= tokens.min() * 1.01:
        return f"fixed tokens (D = {human(tokens.median())})"
    if ratio.max() <= ratio.min() * 1.05:
        return f"fixed tokens per parameter (D/N = {ratio.median():.3g})"
    return f"D from {human(tokens.min())} to {human(tokens.max())} tokens"
