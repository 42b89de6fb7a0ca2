"""Three classes without time: the cultivar of a wine from its chemistry (scikit-learn's wine data)."""

from truecourse.problem import Files, Float, Integer, Label, MetricGate, Problem, RandomSplit, Table, XGBoost

MEASURED = [
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
    "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
]  # fmt: skip

PROBLEM = Problem(
    name="wine",
    kind="multiclass",
    tables=[
        Table(
            "wines",
            source=Files("data/wines.parquet"),
            columns={name: Float(ge=0) for name in MEASURED} | {"cultivar": Integer(ge=0, le=2, severity="critical")},
        )
    ],
    label=Label(table="wines", column="cultivar"),
    split=RandomSplit(validate=0.2, test=0.3),
    model=XGBoost(rounds=200, learning_rate=0.1, max_depth=3, early_stopping_rounds=20),
    gates=[MetricGate("accuracy", min=0.8), MetricGate("log_loss", max=0.6)],
)
