"""Which offer suits a customer? Several classes, without time; a view of the area customers that has no time either."""

from truecourse.problem import Files, Label, MetricGate, Problem, RandomSplit, Table, Text, XGBoost

PROBLEM = Problem(
    name="segments",
    kind="multiclass",
    tables=[
        Table(
            "answers",
            source=Files("data/answers.csv"),
            key=["answer"],
            columns={"answer": Text(), "customer": Text(), "channel": Text(), "offer": Text()},
        )
    ],
    label=Label(table="answers", column="offer"),
    request={"customer": Text(feature=False), "channel": Text()},
    shared_views=["customers.facts"],
    split=RandomSplit(validate=0.2, test=0.2),
    model=XGBoost(rounds=10, max_depth=3),
    gates=[MetricGate("log_loss", max=100.0)],
)
