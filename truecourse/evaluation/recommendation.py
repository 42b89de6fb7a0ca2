"""Whether a linear model would do: the linear baseline compared with the model on test rows."""

from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.modeling.selection import LINEAR


def recommend_linear(test: HeldOut, form: str) -> str:
    """Recommend Linear() in one sentence if the model is not better than the linear baseline beyond the 95% interval.

    `form`: of the model, from training.json. Empty if the model is better, is linear itself, or the difference is
    undefined."""
    if form == LINEAR:
        return ""
    found = test.difference("linear")
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None or high < 0:
        return ""
    metric = {"log_loss": "log loss", "rmse": "RMSE"}[test.problem.metric]
    outcome = "better" if low > 0 else "as good within noise"
    return (
        f"A linear model is {outcome} on the test rows: {metric} of the model minus that of the linear baseline is "
        f"{value:+.4g} (95% interval {low:+.4g} to {high:+.4g}). Consider model=Linear(), which is easier to explain."
    )
