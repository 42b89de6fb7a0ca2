"""Evaluation of model versions: slices, paired comparison with the champion, gates, plots and the model's page.

Depends on `statistics`, `modeling` and `registry`.
"""

__all__ = ["evaluate", "gates", "model_page", "paired_comparison", "plots", "slices", "tries"]
