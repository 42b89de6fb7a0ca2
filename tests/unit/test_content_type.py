"""Which content types count as JSON in UTF-8, and the message for any other."""

import pytest

from services.http.routes import check_content_type
from truecourse.errors import RequestError

JSON = (
    "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=utf8",
    'application/json; charset="UTF-8"', "application/json ; CHARSET=Utf8", "application/json; charset=us-ascii",
    "application/json;", "application/json; profile=x; charset=utf-8",
)  # fmt: skip
OTHER = {
    "application/json; charset=latin1": "the charset of the content type is latin1",
    'application/json; charset="utf-16"': "the charset of the content type is utf-16",
    "application/json; charset=utf-8; charset=latin1": "the charset of the content type is utf-8, latin1",
    "application/json; charset": "the charset of the content type is none",
    "application/json; charset=no\x00thing": "the charset of the content type is no\x00thing",
    "text/plain; charset=utf-8": "the content type is text/plain",
    "": "the content type is none",
}


def check(kind: str, coding: bytes = b"identity") -> None:
    check_content_type({"headers": [(b"content-type", kind.encode("latin-1")), (b"content-encoding", coding)]})


@pytest.mark.parametrize("kind", JSON)
def test_json_is_accepted(kind: str) -> None:
    check(kind)


@pytest.mark.parametrize("kind", OTHER)
def test_another_content_type_is_rejected_with_the_cause(kind: str) -> None:
    with pytest.raises(RequestError) as refused:
        check(kind)
    assert refused.value.status == 415
    assert refused.value.what == OTHER[kind]


def test_a_content_encoding_is_rejected_with_the_cause() -> None:
    with pytest.raises(RequestError, match="the content encoding is gzip"):
        check("application/json", b"GZIP")
