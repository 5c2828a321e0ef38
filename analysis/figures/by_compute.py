"""Loss against training compute, under three accountings."""

# pandas infers unions that no data frame of ours takes; the rules that trip over them are off.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false

from ..questions.results import Results
from ..runs.accounting import ACCOUNTINGS, total_cost
from ..runs.labels import SIZE_NAME
from ..tables.labels import metric_label
from .axes import flops_axis, frame_y, place_labels
from .style import Drawn, new_figure, set_title, shared_legend, styled, styles


@styled
def loss_by_compute(results: Results) -> Drawn | None:
    """Loss against training FLOPs under the three accountings, all runs."""
    if "flops_train_exact" not in results.chosen:
        return None
    style = styles(results)
    distilled = not results.chosen["is_control"].all()
    shown = ACCOUNTINGS if distilled else ACCOUNTINGS[:1]
    figure, panels = new_figure(
        1, len(shown), 3.1, share_x=True, share_y=True, width=7.0 if distilled else 4.2
    )
    losses = results.chosen[results.metric].astype(float)
    labels: list[tuple[float, float, str, str]] = []
    for axes, accounting in zip(panels, shown, strict=True):
        runs = results.chosen.assign(_flops=total_cost(results.chosen, accounting), _loss=losses)
        for is_control, keys in ((True, ["recipe", "size"]), (False, ["recipe"])):
            for (recipe, *_), group in runs[runs["is_control"] == is_control].groupby(keys):
                colour, marker, line = style[str(recipe)]
                means = group.groupby([SIZE_NAME, "num_tokens"]).agg(
                    {"_flops": "mean", "_loss": "mean", "size": "first"}
                )
                axes.plot(
                    means["_flops"],
                    means["_loss"],
                    line,
                    color=colour,
                    marker=marker,
                    markersize=3.5,
                    linewidth=0.8,
                    label=str(recipe),
                    zorder=2 if is_control else 3,
                )
                axes.plot(
                    group["_flops"], group["_loss"], ".", color=colour, alpha=0.5, markersize=3
                )
                named = means[:1] if is_control else means
                if axes is panels[0]:
                    at = zip(named["_flops"], named["_loss"], named["size"], strict=True)
                    labels += [(float(x), float(y), str(size), colour) for x, y, size in at]
        axes.set_title(accounting.label if accounting.charges else "student only")
    for axes in panels:  # after all of them are filled, for they share their range
        flops_axis(axes, "training FLOPs (exact)")
    frame_y(panels[0], losses.tolist(), headroom=0.08)
    panels[0].set_ylabel(metric_label(results.metric))
    shared_legend(figure, panels)
    title = "Loss against training compute"
    set_title(figure, title)
    place_labels(panels[0], labels)
    caption = (
        "Means over seeds (small dots: single seeds). Grey lines join the controls of one size "
        "over their token counts; coloured lines join a recipe's sizes. Sizes are named in the "
        "first panel, where there is room. FLOPs are exact counts, not 6ND. Lower and further "
        "left is better. Panels differ in what a distilled run is charged with besides its own "
        "training; where the teacher's training outweighs the students', a recipe's points lie "
        "nearly one above the other. Controls are charged with their own training alone."
    )
    data = results.chosen[["run_id", "recipe", "size", "seed", SIZE_NAME, "num_tokens"]].assign(
        loss=losses,
        **{f"flops, {a.label}": total_cost(results.chosen, a) for a in shown},
    )
    return Drawn(name="loss_by_compute", title=title, caption=caption, figure=figure, data=data)
