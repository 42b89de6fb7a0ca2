"""Find deliveries of a table without key that repeat rows of another delivery, so that these rows count twice."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from truecourse.data.deliveries import Delivery
from truecourse.data.sql import ROW, quote
from truecourse.problem.schema import Table

SAMPLE = 500
"""Rows of a delivery that are searched for in the others."""
LEAST = 20
"""Fewest rows for a comparison."""
SHARED = 0.5
"""Share of a delivery's rows in another delivery from which it is reported."""
REPEATED = 0.1
"""If a larger share of rows repeats within one delivery, repeated rows are normal in this table."""


def find_overlaps(
    connection: duckdb.DuckDBPyConnection, table: Table, standing: Sequence[Delivery], fresh: set[int]
) -> dict[int, str]:
    """A warning for each delivery in `fresh` (numbers) that shares a large part of its own rows, or of another
    delivery's rows, with another delivery in `standing`.

    Reads the relation `raw`, the rows of all deliveries. Rows are compared by a hash of all columns, for up to SAMPLE
    evenly spaced rows of each delivery; the raw table is scanned once."""
    known = [d for d in standing if d.rows]
    if table.key or len(known) < 2 or not fresh & {d.number for d in known}:
        return {}
    places = {
        "number": [d.number for d in known],
        "start": [d.start for d in known],
        "end": [d.end for d in known],
        "step": [max(1, d.rows // SAMPLE) for d in known],
    }
    connection.register("places", pa.table(places))
    columns = ", ".join(f"raw.{quote(name)}" for name in table.columns)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP VIEW hashed AS
        SELECT number, {ROW} AS place, hash({columns}) AS digest, ({ROW} - start) % step = 0 AS chosen
        FROM raw ASOF JOIN (FROM places ORDER BY start) AS places ON raw.{ROW} >= places.start
        WHERE {ROW} < places.end
        """  # noqa: S608 - quoted names
    )
    pairs = connection.execute(
        """
        WITH chosen AS MATERIALIZED (SELECT number, place, digest FROM hashed WHERE chosen),
        sizes AS (SELECT number, count(*) AS size FROM chosen GROUP BY number)
        SELECT chosen.number, hashed.number, count(DISTINCT chosen.place) / any_value(size), any_value(size)
        FROM chosen JOIN hashed USING (digest) JOIN sizes ON sizes.number = chosen.number
        WHERE chosen.place <> hashed.place
        GROUP BY 1, 2
        """
    ).fetchall()
    connection.unregister("places")
    shares = {(one, other): share for one, other, share, size in pairs if size >= LEAST}
    repetitive = {one for (one, other), share in shares.items() if one == other and share > REPEATED}
    uris = {d.number: d.uri for d in known}
    warnings: dict[int, str] = {}
    for (one, other), share in sorted(shares.items(), key=lambda item: -item[1]):
        newer = max(one, other)
        if one != other and share >= SHARED and newer in fresh and newer not in warnings and one not in repetitive:
            warnings[newer] = (
                f"{share:.0%} of the rows of delivery {one} ({uris[one]}) are in delivery {other} ({uris[other]}) too, "
                "and count twice: a table without a key keeps both. If each file holds all rows so far, use only the "
                "newest file as the source, or declare a key"
            )
    return warnings
