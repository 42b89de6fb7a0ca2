"""Connections to DuckDB print nothing on stdout, which belongs to the answers of commands."""

from pathlib import Path

from truecourse.data import sql


def test_connections_draw_no_progress_bar(home: Path) -> None:
    """DuckDB's default draws one for each query of more than two seconds."""
    with sql.connect() as first, sql.connect(first) as second:
        for connection in (first, second):
            assert connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
