"""For `make bench-serve`: 30 features, all sent in the request."""

from truecourse.problem import Files, Float, Integer, Label, Problem, Table, Text

COLUMNS = (
    {f"amount_{i}": Float(nulls=True) for i in range(24)}
    | {f"count_{i}": Integer(nulls=True) for i in range(3)}
    | {f"kind_{i}": Text(nulls=True) for i in range(3)}
)

PROBLEM = Problem(
    name="bare",
    kind="binary",
    tables=[Table("rows", source=Files("rows.csv"), columns=COLUMNS | {"label": Integer(ge=0, le=1)})],
    label=Label(table="rows", column="label"),
)
