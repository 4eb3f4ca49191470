"""Key files: encrypted, closed to others, never overwritten; passphrases come from files."""

import os

import pytest

from secguard.core import FormatError, RefusedError, UsageError
from secguard.keys import Algorithm, find_passphrase, generate, load_signer, save_private_key


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "k.pem"
    signer = generate(Algorithm.P256)
    reference = save_private_key(path, signer, b"secret")
    return path, signer, reference


def test_round_trip(key):
    path, signer, reference = key
    assert b"ENCRYPTED" in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signer(reference, b"secret").public_key() == signer.public_key()


def test_wrong_and_missing_passphrase(key):
    _, _, reference = key
    with pytest.raises(UsageError, match="does not open"):
        load_signer(reference, b"wrong")
    with pytest.raises(UsageError, match="encrypted") as caught:
        load_signer(reference)
    assert "--passphrase-file" in caught.value.hint


def test_a_file_that_others_may_read_is_refused_with_the_chmod(key):
    path, _, reference = key
    path.chmod(0o640)
    with pytest.raises(RefusedError) as caught:
        load_signer(reference, b"secret")
    assert caught.value.hint == f"run: chmod 600 {path}"


def test_no_key_is_overwritten(key):
    path, signer, _ = key
    with pytest.raises(RefusedError, match="already"):
        save_private_key(path, signer, None)


def test_bad_references(tmp_path):
    with pytest.raises(UsageError, match="PKCS#11"):
        load_signer("pkcs11:token=x")
    with pytest.raises(UsageError, match="no such key"):
        load_signer(f"file:{tmp_path}/none")
    junk = tmp_path / "junk"
    junk.write_bytes(os.urandom(200))
    junk.chmod(0o600)
    with pytest.raises(FormatError, match="not a private key"):
        load_signer(str(junk))


def secret(path, value: str):
    path.write_text(value)
    path.chmod(0o600)
    return path


def test_passphrase_order(tmp_path, monkeypatch):
    option, named, fallback = (secret(tmp_path / n, f"{n}\n") for n in ("option", "named", "fallback"))
    credentials = tmp_path / "cred"
    credentials.mkdir()
    secret(credentials / "secguard-passphrase", "cred\r\n")
    assert find_passphrase() is None
    assert find_passphrase(prompt=lambda: "typed") == b"typed"
    assert find_passphrase(fallback=fallback, prompt=lambda: "typed") == b"fallback"
    monkeypatch.setenv("SECGUARD_PASSPHRASE_FILE", str(named))
    assert find_passphrase(fallback=fallback) == b"named"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert find_passphrase(fallback=fallback) == b"cred"
    assert find_passphrase(option, fallback=fallback) == b"option"


def test_bad_passphrase_files(tmp_path):
    with pytest.raises(UsageError, match="empty"):
        find_passphrase(secret(tmp_path / "e", "\n"))
    readable = secret(tmp_path / "r", "x")
    readable.chmod(0o644)
    with pytest.raises(RefusedError):
        find_passphrase(readable)
    with pytest.raises(UsageError):
        find_passphrase(tmp_path / "none")


def test_a_credential_as_systemd_gives_it(tmp_path, monkeypatch):
    """Mode 0440: the group's bit is the mask of the access control entry for the service's user."""
    credential = secret(tmp_path / "secguard-passphrase", "cred")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential.chmod(0o440)
    assert find_passphrase() == b"cred"
    credential.chmod(0o444)
    with pytest.raises(RefusedError):
        find_passphrase()
