"""DSSE envelopes: the published test vector, tampering at every byte, hostile input."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError
from secguard.keys import Algorithm, generate, pae, seal, unseal

SIGNER = generate(Algorithm.P256)
KIND = "application/vnd.secguard.test+json"
ENVELOPE = seal(b'{"a":1}', KIND, SIGNER)


def test_pae_vector():
    """protocol.md of secure-systems-lab/dsse, section Test Vectors."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("kind", [Algorithm.P256, Algorithm.ED25519])
def test_round_trip(kind):
    signer = generate(kind)
    other = generate(kind).public_key()
    payload, key = unseal(seal(b"body", KIND, signer), KIND, [other, signer.public_key()])
    assert (payload, key) == (b"body", signer.public_key())


def test_another_signer_is_told_apart():
    assert unseal(ENVELOPE, KIND, [generate().public_key()])[1] is None


def test_another_type_is_refused():
    with pytest.raises(FormatError, match="expected"):
        unseal(ENVELOPE, KIND + "x", [SIGNER.public_key()])


def test_every_flipped_byte_is_caught():
    """A change either breaks the envelope, or loses the signer, or leaves payload and signature as they were."""
    for position in range(len(ENVELOPE)):
        bad = bytearray(ENVELOPE)
        bad[position] ^= 1
        try:
            payload, key = unseal(bytes(bad), KIND, [SIGNER.public_key()])
        except FormatError:
            continue
        # only the unsigned key ID may change without effect: it is a hint and nobody trusts it
        assert key is None or payload == b'{"a":1}'


def test_base64_has_one_form():
    """`eyJhIjoxfQ==` and `eyJhIjoxfR==` decode to the same bytes; only the first is canonical."""
    assert b"eyJhIjoxfQ==" in ENVELOPE
    with pytest.raises(FormatError):
        unseal(ENVELOPE.replace(b"eyJhIjoxfQ==", b"eyJhIjoxfR=="), KIND, [SIGNER.public_key()])


@given(st.binary(max_size=300))
def test_junk_is_refused(data):
    with pytest.raises(FormatError):
        unseal(data, KIND, [SIGNER.public_key()])


@given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_other_json_is_refused(value):
    with pytest.raises(FormatError):
        unseal(msgspec.json.encode(value), KIND, [SIGNER.public_key()])


def test_bad_base64_is_refused():
    document = msgspec.json.decode(ENVELOPE)
    document["payload"] = base64.b64encode(b"x").decode() + "!"
    with pytest.raises(FormatError):
        unseal(msgspec.json.encode(document), KIND, [])
