"""Rows and pandas frames as the body of a client's request."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.scripted_server import scripted_server
from truecourse.client import Client, encode
from truecourse.errors import RequestError

ROW = {"size": 1}


def test_a_frames_rows_are_sent_with_null_for_missing_values() -> None:
    frame = pd.DataFrame(
        {
            "city": ["Ulm", None],
            "size": [1.5, np.nan],
            "count": pd.array([2**53 + 1, pd.NA], dtype="Int64"),
            "open": [True, False],
            "since": pd.Series([pd.Timestamp("2024-05-01T12:00:00.5Z"), None]),
            "kind": pd.Categorical(["a", None]),
        }
    )
    frame.index = pd.Index([5, 5])
    row = {"city": "Ulm", "size": 1.5, "count": 2**53 + 1, "open": True, "since": "2024-05-01T12:00:00.500000+00:00"}
    empty = dict.fromkeys(row) | {"open": False, "kind": None}
    with scripted_server() as server, Client(server.url) as client:
        client.post("predict", frame, ROW)
    assert json.loads(server.requests[0][2]) == {"rows": [row | {"kind": "a"}, empty, ROW]}


def test_a_frame_that_json_cannot_represent_is_refused() -> None:
    with pytest.raises(RequestError) as refused:
        encode([pd.DataFrame({"size": [1.0, np.inf]})])
    assert [(fault.row, fault.field) for fault in refused.value.faults] == [(1, "size")]
    with pytest.raises(RequestError, match="two columns 'a'"):
        encode([pd.DataFrame([[1, 2]], columns=["a", "a"])])
    with pytest.raises(RequestError, match="field name must be text"):
        encode([pd.DataFrame([[1, 2]])])
