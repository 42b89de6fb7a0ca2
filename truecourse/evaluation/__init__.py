"""Evaluation of model versions: slices, paired comparison with the champion, gates, plots and the model's page.

Depends on `statistics`, `modeling` and `registry`.
"""

__all__ = [
    "cards",
    "comparison_sections",
    "decision_report",
    "experiment_pages",
    "feature_selection",
    "gates",
    "model_comparison",
    "model_evaluation",
    "model_page",
    "multiple_comparisons",
    "paired_comparison",
    "plots",
    "recommendation",
    "selection_sections",
    "slices",
    "tuning_gain",
    "tuning_sections",
]
