"""Regression without time: disease progression after one year (scikit-learn's diabetes data)."""

from truecourse.problem import (
    BeatsBaseline,
    Choice,
    Files,
    Float,
    Integer,
    Label,
    MetricGate,
    Problem,
    RandomSplit,
    Range,
    Table,
    XGBoost,
)

PROBLEM = Problem(
    name="diabetes",
    kind="regression",
    tables=[
        Table(
            "patients",
            source=Files("data/patients.csv.zip"),
            columns={
                "age": Integer("years", ge=0, le=120),
                "sex": Integer(one_of=[1, 2]),
                "bmi": Float("kg/m²", ge=10, le=80),
                "bp": Float("mean arterial pressure", ge=30, le=200),
                **{f"s{n}": Float("blood serum", ge=0) for n in range(1, 7)},
                "progression": Float("after one year", ge=0, severity="critical"),
            },
        )
    ],
    label=Label(table="patients", column="progression"),
    split=RandomSplit(validate=0.2, test=0.25),
    model=XGBoost(
        rounds=300,
        learning_rate=0.05,
        max_depth=3,
        early_stopping_rounds=30,
        subsample=0.8,
        search={"max_depth": Choice([2, 3, 4]), "learning_rate": Range(0.02, 0.2, log=True)},
        trials=3,
    ),
    gates=[BeatsBaseline(), MetricGate("rmse", max=70)],
)
