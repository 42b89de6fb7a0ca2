"""Parsing a single time, a column of times, and Python's strptime agree."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from truecourse.data.parsing import read_cells
from truecourse.data.times import IN_RANGE, parse_time, read_time
from truecourse.problem.schema import Time

MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2261, 12, 31, 23, 59, 59))
CLOCK = st.sampled_from(
    ["", "T10", " 10:30", "T10:30:15", " 23:59:59.5", "t00:00:00,123456789", "T24:00", "T10:61", " 1:2"]
)
ZONE = st.sampled_from(["", "Z", "z", " UTC", "UTC", " GMT", "+02", "-0530", " +05:30", "+00:00", "EST", "+1"])
DATE = st.sampled_from(
    ["2024-02-29", "2023-02-29", "1677-12-31", "1678-01-01", "2261-12-31", "9999-12-31", "20240501", "soon", ""]
)
FORMATS = [
    "%d/%m/%Y", "%m/%d/%y %I:%M %p", "%Y%m%d", "%Y%m%d%H%M%S", "%d.%m.%Y %H:%M:%S.%f", "%d %b %Y", "%B %d, %Y", "%Y-%m",
    "%Y%m%dT%H%M%S", "%d/%m/%Y %H:%M %z", "%Y-%j",
]  # fmt: skip


def one(text: str) -> datetime | None:
    try:
        return parse_time(text).replace(tzinfo=UTC)
    except ValueError:
        return None


@given(
    texts=st.lists(
        st.builds(str.__add__, DATE, st.builds(str.__add__, CLOCK, ZONE)) | st.text("0123456789-:TZ+ .", max_size=25)
    )
)
@example(texts=["9999-12-31T23:59-12:00", "0001-01-01T00:00+05:00", "0000-01-01", "2024-05-01"])
def test_a_column_is_parsed_like_its_single_texts(texts: list[str]) -> None:
    assert read_time(pa.array(texts, pa.string())).to_pylist() == [one(text.strip()) for text in texts]


@given(moment=MOMENTS, zone=st.integers(-14 * 60, 14 * 60))
def test_pythons_iso_times_are_read_exactly(moment: datetime, zone: int) -> None:
    expected = moment.replace(tzinfo=UTC)
    for text in (moment.isoformat(), moment.isoformat(" "), f"{moment.isoformat()}Z"):
        assert one(text) == expected
        assert read_time(pa.array([text])).to_pylist() == [expected]
    if IN_RANGE[0] + timedelta(days=1) < expected < IN_RANGE[1] - timedelta(days=1):
        from datetime import timezone

        text = expected.astimezone(timezone(timedelta(minutes=zone))).isoformat()
        assert one(text) == expected
        assert read_time(pa.array([text])).to_pylist() == [expected]


@pytest.mark.parametrize("format", FORMATS)
@given(
    moments=st.lists(
        MOMENTS.filter(lambda moment: 1969 <= moment.year <= 2068 and moment.year > 1999), min_size=1, max_size=3
    )
)
def test_a_format_reads_what_it_writes(format: str, moments: Any) -> None:
    texts = [moment.replace(tzinfo=UTC).strftime(format) for moment in moments]
    wanted = [datetime.strptime(text, format) for text in texts]
    wanted = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in wanted]
    assert read_time(pa.array(texts), format).to_pylist() == wanted


@pytest.mark.parametrize(
    ("format", "text"),
    [("%Y%m%d", "2024013"), ("%Y%m%d", "202401"), ("%d/%m/%Y", "31/02/2024"), ("%d/%m/%Y", "12/31/2024"),
     ("%d/%m/%Y", "2024-01-31"), ("%d/%m/%Y", "31/12/9999"), ("%d/%m/%Y", "31/12/2024 10:00"),
     ("%H %Y-%m-%d", "24 2024-01-01")],
)  # fmt: skip
def test_unparsable_times_are_kept_as_text(format: str, text: str) -> None:
    assert read_cells(pa.array([text]), Time(format=format)) == (pa.nulls(1, pa.timestamp("us", "UTC")), {0: text})


@given(moment=MOMENTS, unit=st.sampled_from([("epoch_s", 10**6), ("epoch_ms", 10**3), ("epoch_us", 1)]))
def test_numbers_since_1970(moment: datetime, unit: tuple[str, int]) -> None:
    format, micro = unit
    since = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    sign, (whole, part) = "-" if since < 0 else "", divmod(abs(since), micro)
    text = f"{sign}{whole}" + (f".{part:0{len(str(micro)) - 1}d}" if micro > 1 else "")
    array, failed = read_cells(pa.array([text, f"{sign}{whole}", "soon"]), Time(format=format))
    exact = since // micro if since >= 0 else -(-since // micro)
    assert array.to_pylist() == [
        moment.replace(tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=exact * micro),
        None,
    ]
    assert failed == {2: "soon"}


@pytest.mark.parametrize("format", ["%d/%m", "%H:%M", "%Y", "%Q %Y-%m-%d", "epoch"])
def test_a_format_without_a_day_is_rejected(format: str) -> None:
    with pytest.raises(ValueError, match=r"time format must have|unknown directive"):
        Time(format=format)
