"""API keys: what is stored, which are valid, and concurrent changes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.http import swagger_ui
from services.http.authentication import Access, Keyring, require_keys_beyond_loopback
from truecourse.errors import NotFound, PlatformError, RequestError, SettingsError, StorageError
from truecourse.serving import api_keys
from truecourse.serving.api_keys import ApiKey, Keys
from truecourse.settings import Settings, get_settings
from truecourse.storage.ledger import Ledger

NOW = datetime.now(UTC).timestamp()


def bearer(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + text.encode())]


def stored(home: Path) -> str:
    return "".join(path.read_text() for path in sorted((home / "storage" / "keys").iterdir()))


@pytest.fixture
def access(home: Path, configure: Callable[..., None]) -> Access:
    configure(authentication="keys")
    return Access(get_settings())


def test_only_the_hash_of_a_key_is_stored(home: Path) -> None:
    key, text = api_keys.create("ours", ("predict",))
    assert text not in stored(home)
    assert text.rsplit("_", 1)[1] not in stored(home)
    assert key.sha256 in stored(home)


def test_keys_are_valid_until_revoked_or_expired(access: Access) -> None:
    first, old = api_keys.create("before", ("predict",))
    _, new = api_keys.create("after", ("predict", "admin"), days=1)
    _, gone = api_keys.create("short", ("predict",), days=0)
    access.refresh()
    assert {access.holder("/predict", bearer(text)).name for text in (old, new)} == {"before", "after"}  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="invalid or expired"):
        access.holder("/predict", bearer(gone))
    api_keys.revoke(first.id)
    access.refresh()
    with pytest.raises(RequestError, match="invalid or expired"):
        access.holder("/predict", bearer(old))
    assert access.holder("/metrics", [(b"x-api-key", new.encode())]) is not None
    with pytest.raises(NotFound, match="no such key"):
        api_keys.revoke(first.id)


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/predict", "predict"),
        ("/explain", "explain"),
        ("/metrics", "admin"),
        ("/healthz", "admin"),
        ("/model", "admin"),
    ],
)
def test_a_path_accepts_only_its_scope(access: Access, path: str, scope: str) -> None:
    texts = {each: api_keys.create(each, (each,))[1] for each in api_keys.SCOPES}
    access.refresh()
    for each, text in texts.items():
        if each == scope:
            assert access.holder(path, bearer(text)) is not None
        else:
            with pytest.raises(RequestError, match=f"lacks the scope {scope}") as refused:
                access.holder(path, bearer(text))
            assert refused.value.status == 403
    assert access.holder("/openapi.json", bearer(texts["predict"])) is not None


def test_anything_but_a_single_key_is_rejected(access: Access) -> None:
    _, text = api_keys.create("ours", ("predict",))
    access.refresh()
    known = text.encode()
    for headers in (
        [],
        [(b"authorization", known)],
        [(b"authorization", b"Basic " + known)],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer " + known[:-1])],
        [(b"authorization", b"Bearer " + known + b"x")],
        [(b"authorization", b"Bearer " + known.upper())],
        [(b"authorization", b"Bearer " + known), (b"x-api-key", known)],
        [(b"authorization", b"Bearer " + known), (b"authorization", b"Bearer " + known)],
        [(b"x-api-key", b"\xff" * 40)],
        [(b"x-api-key", b"t" * 10_000)],
        [(b"cookie", known)],
    ):
        with pytest.raises(RequestError) as refused:
            access.holder("/predict", headers)
        assert refused.value.status == 401


@given(st.text(max_size=80), st.integers(0, 60), st.characters())
def test_no_other_text_matches_the_key(text: str, place: int, other: str) -> None:
    right = "tc_0a1b2c3d_" + "k" * 43
    key = _key(right)
    ring = Keyring([key])
    assert ring.holder(right, NOW) == key
    changed = right[:place] + other + right[place + 1 :]
    assert ring.holder(changed, NOW) == (key if changed == right else None)
    assert ring.holder(text, NOW) is None


def _key(text: str) -> ApiKey:
    from truecourse.hashing import sha256

    return ApiKey(id="0a1b2c3d", name="", scopes=(), sha256=sha256(text.encode()), created=datetime.now(UTC))


@given(st.timedeltas(timedelta(0), timedelta(days=1000)), st.timedeltas(timedelta(0), timedelta(days=1000)))
def test_a_key_expires_exactly_on_time(life: timedelta, age: timedelta) -> None:
    text = "tc_0a1b2c3d_" + "k" * 43
    made = datetime(2024, 1, 1, tzinfo=UTC)
    ring = Keyring([_key(text).model_copy(update={"created": made, "expires": made + life})])
    assert (ring.holder(text, (made + age).timestamp()) is not None) == (age < life)


def test_nobody_is_authenticated_before_the_keys_are_loaded(access: Access) -> None:
    _, text = api_keys.create("ours", ("predict",))
    with pytest.raises(PlatformError, match="cannot be read yet"):
        access.holder("/predict", bearer(text))


def test_loaded_keys_stay_valid_while_storage_is_unavailable(access: Access, configure: Callable[..., None]) -> None:
    _, text = api_keys.create("ours", ("predict",))
    access.refresh()
    configure(storage="s3://nowhere/at-all", s3_endpoint="http://127.0.0.1:1", s3_access_key_id="a")
    with pytest.raises(StorageError):
        access.refresh()
    assert access.holder("/predict", bearer(text)) is not None


def test_two_concurrent_changes_both_apply(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes between the read and the write."""
    append = Ledger.append
    raced: list[Any] = []

    def late(self: Ledger[Keys], entry: Keys) -> None:
        if not raced:
            raced.append(entry)
            api_keys.create("the other", ("predict",))
        append(self, entry)

    monkeypatch.setattr(Ledger, "append", late)
    api_keys.create("ours", ("predict",))
    assert [key.name for key in api_keys.current().keys] == ["the other", "ours"]


def test_a_public_endpoint_requires_keys() -> None:
    require_keys_beyond_loopback(Settings(host="127.0.0.1"))
    require_keys_beyond_loopback(Settings(host="0.0.0.0", authentication="keys"))
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(SettingsError, match="requires keys"):
            require_keys_beyond_loopback(Settings(host=host))


def test_the_documentation_page_needs_no_key(access: Access) -> None:
    for path in swagger_ui.PATHS:
        assert access.holder(path, []) is None
    with pytest.raises(PlatformError):
        access.holder("/openapi.json", bearer("tc_x"))
