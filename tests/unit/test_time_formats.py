"""Formats of times in files, and a comparison with pandas, which guesses fewer of them."""

from datetime import datetime, timedelta

import pytest
from pandas.tseries.api import guess_datetime_format  # type: ignore[attr-defined]

from truecourse.authoring.scaffold.time_formats import detect_time_formats

ONLY_OURS = ["%d/%m/%y", "%d-%b-%y", "%Y/%m", "%m-%Y", "%b %Y", "%B %Y", "%YM%m", "%d/%m/%Y %I:%M %p"]
ALSO_PANDAS = ["%Y-%m-%d %H:%M:%S", "%Y/%m/%d", "%m/%d/%Y %H:%M", "%d %b %Y", "%A, %B %d, %Y", "%Y%m%d"]
MOMENTS = [datetime(2024, 3, 25, 14, 5, 7) + timedelta(days=31 * n) for n in range(12)]


@pytest.mark.parametrize("form", ONLY_OURS + ALSO_PANDAS)
def test_the_format_of_times_is_detected(form: str) -> None:
    texts = [moment.strftime(form) for moment in MOMENTS]
    detected = detect_time_formats(texts)
    assert detected
    assert [datetime.strptime(text, detected[0]) for text in texts] == [datetime.strptime(text, form) for text in texts]


def test_pandas_guesses_fewer_formats() -> None:
    """If this fails, pandas has improved: detect_time_formats() can use it."""
    guessed = {form: guess_datetime_format(MOMENTS[0].strftime(form)) for form in ONLY_OURS + ALSO_PANDAS}
    assert [form for form, guess in guessed.items() if guess is None] == ONLY_OURS
