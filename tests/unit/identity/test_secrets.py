"""One-time secrets: bound to a device and a profile, kept as digests, used once, gone in time."""

from datetime import timedelta

import pytest

from secguard.core import FixedClock, RefusedError, UsageError, rfc3339
from secguard.identity import Registry
from secguard.identity.enrol.secrets import allow, digest_of, find_secret, withdraw

from .conftest import CAMERA, NOW

OTHER = "32011600001320000002"


def test_a_secret_is_found_for_its_device_only(site):
    (made,) = allow(site.open(None), [CAMERA])
    now = rfc3339(NOW)
    assert made.profile == "camera"
    for typed in (made.secret, made.secret.upper(), made.secret.replace("-", " "), f" {made.secret}\n"):
        assert find_secret(site.registry, CAMERA, typed, now) is not None
    assert find_secret(site.registry, OTHER, made.secret, now) is None
    assert find_secret(site.registry, CAMERA, made.secret[:-1], now) is None
    assert find_secret(site.registry, CAMERA, "", now) is None
    assert made.secret not in repr(made)


def test_only_a_digest_is_kept(site):
    (made,) = allow(site.open(), [CAMERA])
    site.registry._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain = made.secret.replace("-", "").encode()
    for path in site.state.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert plain not in data
            assert made.secret.encode() not in data
    assert all(made.secret not in str(event) for event in site.recorder.events.values())
    assert site.recorder.kinds.count("enrolment.allowed") == 1


def test_it_is_used_once_whoever_comes_first(site):
    (made,) = allow(site.open(), [CAMERA])
    digest = digest_of(CAMERA, made.secret)
    with Registry.open(site.registry.path) as other:
        with site.registry.transaction():
            assert site.registry.use_secret(digest, NOW, CAMERA, "camera")
        with other.transaction():
            assert not other.use_secret(digest, NOW, CAMERA, "camera")
        assert find_secret(other, CAMERA, made.secret, rfc3339(NOW)) is None
        with site.registry.transaction():
            site.registry.restore_secret(digest, NOW)
        with other.transaction():
            assert other.use_secret(digest, NOW, CAMERA, "camera")


def test_it_expires(site):
    (made,) = allow(site.open(), [CAMERA], hours=1)
    late = NOW + timedelta(hours=1)
    assert find_secret(site.registry, CAMERA, made.secret, rfc3339(late)) is None
    with site.registry.transaction():
        assert not site.registry.use_secret(digest_of(CAMERA, made.secret), late, CAMERA, "camera")
        assert site.registry.use_secret(digest_of(CAMERA, made.secret), late - timedelta(seconds=1), CAMERA, "camera")


def test_a_new_one_makes_the_one_before_void(site):
    first, other = allow(site.open(), [CAMERA])[0], allow(site.open(), [CAMERA], "media-signing")[0]
    second = allow(site.open(), [CAMERA])[0]
    now = rfc3339(NOW)
    assert find_secret(site.registry, CAMERA, first.secret, now) is None
    assert find_secret(site.registry, CAMERA, second.secret, now) is not None
    assert find_secret(site.registry, CAMERA, other.secret, now).profile == "media-signing"


def test_it_can_be_withdrawn(site):
    (made,) = allow(site.open(), [CAMERA])
    assert withdraw(site.open(), CAMERA) == 1
    assert find_secret(site.registry, CAMERA, made.secret, rfc3339(NOW)) is None
    assert site.recorder.kinds[-1] == "enrolment.withdrawn"
    with pytest.raises(UsageError):
        withdraw(site.open(), CAMERA)


def test_many_at_once(site):
    made = allow(site.open(), [CAMERA, OTHER, CAMERA])
    assert [one.gbid for one in made] == [CAMERA, OTHER]
    assert site.recorder.kinds.count("device.registered") == 2
    assert {one.device for one in site.registry.secrets()} == {CAMERA, OTHER}


@pytest.mark.parametrize(
    ("gbid", "profile", "hours"),
    [
        ("123", "", 24),
        ("44010600001320000001", "", 24),
        (CAMERA, "operator", 24),
        (CAMERA, "nvr", 24),
        (CAMERA, "nothing", 24),
        ("32011600003000000001", "", 24),
        (CAMERA, "", 0),
        (CAMERA, "", 3000),
    ],
    ids=["no ID", "other district", "person", "other type", "unknown", "no profile of its type", "none", "too long"],
)
def test_what_cannot_be_allowed(site, gbid, profile, hours):
    with pytest.raises((UsageError, RefusedError)):
        allow(site.open(), [gbid], profile, hours)
    assert not site.registry.secrets()
    assert "enrolment.allowed" not in site.recorder.kinds


def test_without_the_ledger_nothing_is_allowed(site):
    authority = site.open()
    site.recorder.broken = True
    with pytest.raises(RefusedError):
        allow(authority, [CAMERA])
    assert not site.registry.secrets()


def test_a_retired_device_is_not_allowed(site):
    allow(site.open(), [CAMERA])
    with site.registry.transaction():
        site.registry.set_status(CAMERA, "retired")
    with pytest.raises(RefusedError):
        allow(site.open(clock=FixedClock(NOW)), [CAMERA])
