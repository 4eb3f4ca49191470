"""EST over TLS in this process: who gets a certificate, who does not, and what the ledger says of it."""

import asyncio
import base64
import email
import os
import random
import ssl
from datetime import timedelta

import est_kit as kit
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import NameOID

from secguard.core import FixedClock
from secguard.gbid import GbId
from secguard.identity import Order
from secguard.identity.ca.change import rollover_ca
from secguard.identity.enrol.secrets import allow
from secguard.identity.enrol.wire import MAX_BODY
from secguard.identity.records import DeviceRecord
from secguard.trust import gbid_of

from .conftest import NOW, make_site
from .test_ca_backup import setting_of

CAMERA, OTHER = kit.CAMERA, kit.OTHER
NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


def b64(data: bytes) -> bytes:
    return base64.encodebytes(data)


def refusals(site) -> list[str]:
    return [
        event.data.get("code", "") for event in site.recorder.events.values() if event.kind == "certificate.refused"
    ]


def serving(site, tmp_path, act, *, authority=None, **options):
    """Serve, and let a coroutine act on it."""

    async def run():
        async with kit.served(authority or site.open(), tmp_path, **options) as service:
            return await act(service)

    return asyncio.run(run())


def test_a_secret_brings_one_certificate(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])
    device = kit.Device()

    async def act(service):
        first = await service.post("simpleenroll", b64(device.request()), auth=(CAMERA, made.secret))
        again = await service.post("simpleenroll", b64(device.request()), auth=(CAMERA, made.secret))
        return first, again

    (status, body, headers), (replayed, text, _) = serving(site, tmp_path, act)
    assert status == 200
    assert headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    (certificate,) = kit.certificates_in(base64.b64decode(body))
    assert gbid_of(certificate).value == CAMERA
    assert certificate.public_key() == device.key.public_key()
    assert site.registry.active(CAMERA, "camera").certificate == certificate.public_bytes(Encoding.DER)
    assert "certificate.issued" in site.recorder.kinds
    assert replayed == 401
    assert b"one-time secret" in text
    assert refusals(site) == ["identity.enrol.secret"]


def test_two_at_once_with_one_secret_bring_one_certificate(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])

    async def act(service):
        posts = [
            service.post("simpleenroll", b64(kit.Device().request()), auth=(CAMERA, made.secret)) for _ in range(8)
        ]
        return await asyncio.gather(*posts)

    statuses = sorted(status for status, _, _ in serving(site, tmp_path, act))
    assert statuses == [200] + [401] * 7
    assert sum(row.certificate is not None for row in site.registry.certificates(CAMERA)) == 1


def test_a_refused_request_costs_no_secret(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])
    weak = kit.Device(key=ec.generate_private_key(ec.SECP521R1()))

    async def act(service):
        auth = (CAMERA, made.secret)
        return [
            (await service.post("simpleenroll", b64(body), auth=auth))[0]
            for body in (weak.request(), kit.Device().request(OTHER), b"nonsense", kit.Device().request())
        ]

    assert serving(site, tmp_path, act) == [400, 403, 400, 200]
    assert refusals(site) == ["identity.csr.key", "identity.enrol.other", "identity.csr.format"]


@pytest.mark.parametrize("claimed", [OTHER, "1", "", "' OR 1=1 --", "320116\N{FULLWIDTH DIGIT ZERO}0001320000001"])
def test_a_secret_is_worth_nothing_to_another(site, tmp_path, claimed):
    (made,) = allow(site.open(), [CAMERA])

    async def act(service):
        token = base64.b64encode(f"{claimed}:{made.secret}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"}
        return await service.post("simpleenroll", b64(kit.Device(OTHER).request()), headers=headers)

    assert serving(site, tmp_path, act)[0] == 401
    assert not list(site.registry.certificates(OTHER))


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer abc", "Basic " + "A" * 7000, "Basic /w=="])
def test_a_malformed_authorization_is_refused(site, tmp_path, header):
    async def act(service):
        return await service.post("simpleenroll", b64(kit.Device().request()), headers={"Authorization": header})

    assert serving(site, tmp_path, act)[0] in {400, 401}


def test_failed_attempts_are_slowed_down(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])

    async def act(service):
        body = b64(kit.Device().request())
        wrong = [await service.post("simpleenroll", body, auth=(CAMERA, f"guess{n}")) for n in range(12)]
        right = await service.post("simpleenroll", body, auth=(CAMERA, made.secret))
        return [status for status, _, _ in wrong], right

    statuses, (last, _, headers) = serving(site, tmp_path, act)
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == last == 429
    assert int(headers["Retry-After"]) > 0


def test_a_flood_of_refusals_does_not_fill_the_ledger(site, tmp_path):
    async def act(service):
        for _ in range(100):
            await service.post("simpleenroll", b"x")

    serving(site, tmp_path, act)
    events = [event for event in site.recorder.events.values() if event.kind == "certificate.refused"]
    assert {event.outcome for event in events} == {"denied"}
    assert len(events) < 30
    assert sum(event.data.get("count", 1) for event in events) == 100


def test_the_old_certificate_renews(site, tmp_path):
    authority = site.open()
    old, new = kit.Device().enrolled(authority), kit.Device()

    async def act(service):
        first = await service.post("simplereenroll", b64(new.request()), old)
        lost = await service.post("simplereenroll", b64(new.request()), old)  # its answer was lost: the grace
        same = await service.post("simplereenroll", b64(old.request()), old)
        return first, lost, same

    first, lost, same = serving(site, tmp_path, act)
    assert (first[0], lost[0], same[0]) == (200, 200, 200)
    assert kit.certificates_in(base64.b64decode(first[1]))[0].public_key() == new.key.public_key()
    assert site.recorder.kinds.count("certificate.renewed") == 3


def test_who_may_not_renew(site, tmp_path):
    authority = site.open()
    device = kit.Device().enrolled(authority)
    unknown = kit.Device().enrolled(authority)  # supersedes the first
    (made,) = allow(authority, [OTHER])

    async def act(service):
        fresh = b64(kit.Device().request())
        return {
            "nobody": (await service.post("simplereenroll", fresh))[0],
            "secret": (
                await service.post("simplereenroll", b64(kit.Device(OTHER).request()), auth=(OTHER, made.secret))
            )[0],
            "other": (await service.post("simplereenroll", b64(kit.Device(OTHER).request()), unknown))[0],
            "nameless": (await service.post("simplereenroll", b64(kit.Device().request("")), unknown))[0],
            "label": (await service.post("nvr/simplereenroll", fresh, unknown))[0],
            "no such": (await service.post("media-signing/simplereenroll", fresh, unknown))[0],
            "person": (await service.post("operator/simpleenroll", fresh, unknown))[0],
        }

    found = serving(site, tmp_path, act, authority=authority)
    assert found == {
        "nobody": 401,
        "secret": 403,
        "other": 403,
        "nameless": 400,
        "label": 403,
        "no such": 403,
        "person": 404,
    }
    assert device.certificate is not None


@pytest.mark.parametrize(("hours", "status"), [(1, 200), (23, 200), (25, 403)])
def test_a_superseded_certificate_has_a_grace(site, tmp_path, hours, status):
    old = kit.Device().enrolled(site.open())
    kit.Device().enrolled(site.open(clock=FixedClock(NOW + timedelta(days=100))))
    later = site.open(clock=FixedClock(NOW + timedelta(days=100, hours=hours)))

    async def act(service):
        return await service.post("simplereenroll", b64(kit.Device().request()), old)

    assert serving(site, tmp_path, act, authority=later)[0] == status


def test_a_superseded_certificate_is_nothing_once_the_new_one_is_revoked(site, tmp_path):
    authority = site.open()
    old = kit.Device().enrolled(authority)
    kit.Device().enrolled(authority)
    serial = site.registry.active(CAMERA, "camera").serial
    authority.revoke(serial, "keyCompromise")

    async def act(service):
        return await service.post("simplereenroll", b64(kit.Device().request()), old)

    assert serving(site, tmp_path, act, authority=authority)[0] == 403


def test_revoked_and_expired_certificates_are_refused(site, tmp_path):
    authority = site.open()
    revoked, expired = kit.Device().enrolled(authority), kit.Device(OTHER).enrolled(authority)
    authority.revoke(CAMERA, "keyCompromise")
    late = site.open(clock=FixedClock(NOW + timedelta(days=731)))

    async def act(service):
        answers = [
            await service.post("simplereenroll", b64(kit.Device(one.gbid).request()), one) for one in (revoked, expired)
        ]
        return [(status, text.decode()) for status, text, _ in answers]

    answers = serving(site, tmp_path, act, authority=late)
    assert [status for status, _ in answers] == [403, 403]
    assert refusals(site) == ["identity.enrol.expired", "identity.enrol.expired"] or refusals(site) == [
        "identity.enrol.revoked",
        "identity.enrol.expired",
    ]


def test_a_certificate_revoked_now_is_refused_now(site, tmp_path):
    authority = site.open()
    device = kit.Device().enrolled(authority)

    async def act(service):
        good = await service.get("csrattrs", device)
        with_other = site.open()
        await asyncio.to_thread(with_other.revoke, CAMERA, "keyCompromise")
        return good[0], (await service.post("simplereenroll", b64(kit.Device().request()), device))[0]

    assert serving(site, tmp_path, act) == (200, 403)
    assert refusals(site) == ["identity.enrol.revoked"]


def test_certificates_for_another_purpose_do_not_authenticate(site, tmp_path):
    authority = site.open()
    signing = kit.Device().enrolled(authority, "media-signing")
    server = kit.Device("host")
    (answer,) = authority.certify([Order("10.0.0.1", "server", csr=server.request())])
    server.certificate = answer.certificate

    async def act(service):
        refused = 0
        for one in (signing, server):
            try:
                status, _, _ = await service.post("simpleenroll", b64(kit.Device().request()), one)
            except (OSError, ssl.SSLError, kit.aiohttp.ClientError):
                refused += 1
            else:
                refused += status == 403
        return refused

    assert serving(site, tmp_path, act, authority=authority) == 2
    assert not [row for row in site.registry.certificates(CAMERA) if row.profile == "camera"]


def test_a_camera_of_another_site_is_refused(site, tmp_path):
    elsewhere = make_site(tmp_path / "elsewhere")
    foreign = kit.Device().enrolled(elsewhere.create())

    async def act(service):
        try:
            return (await service.post("simpleenroll", b64(kit.Device().request()), foreign))[0]
        except (OSError, kit.aiohttp.ClientError):
            return "handshake"

    assert serving(site, tmp_path, act) in {"handshake", 403}
    assert refusals(site)[0] in {"identity.enrol.handshake", "identity.enrol.foreign"}
    assert not list(site.registry.certificates(CAMERA))
    elsewhere.registry.close()


def test_a_retired_device_is_refused(site, tmp_path):
    authority = site.open()
    device = kit.Device().enrolled(authority)
    with site.registry.transaction():
        site.registry.set_status(CAMERA, "retired")

    async def act(service):
        return await service.post("simplereenroll", b64(kit.Device().request()), device)

    assert serving(site, tmp_path, act)[0] == 403


def test_a_camera_enrols_its_signing_key(site, tmp_path):
    device = kit.Device().enrolled(site.open())

    async def act(service):
        return await service.post("media-signing/simpleenroll", b64(kit.Device().request()), device)

    status, body, _ = serving(site, tmp_path, act)
    assert status == 200
    assert kit.certificates_in(base64.b64decode(body))
    assert site.registry.active(CAMERA, "media-signing") is not None


def register(site, gbid=CAMERA, serial="SN1", maker="Hikvision"):
    with site.registry.transaction():
        site.registry.save([DeviceRecord(gbid, vendor_serial=serial, maker=maker)])


def test_a_makers_certificate_brings_the_first_one(site, tmp_path):
    maker = kit.Maker()
    maker.write(site.certs)
    register(site)
    device = maker.device("SN1")

    async def act(service):
        attributes = await service.get("csrattrs", device)
        return attributes[1], await service.post("simpleenroll", b64(device.request("")), device)

    attributes, (status, body, _) = serving(site, tmp_path, act)
    assert CAMERA.encode() in base64.b64decode(attributes)
    assert status == 200
    (certificate,) = kit.certificates_in(base64.b64decode(body))
    assert gbid_of(certificate) == GbId.parse(CAMERA)
    assert certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value == "SN1"


@pytest.mark.parametrize(
    ("case", "status"),
    [
        (("SN2", "Hikvision", ""), 403),
        (("SN1", "Dahua", ""), 403),
        (("SN1", "", ""), 200),
        (("SN1", "hikvision", CAMERA), 200),
        (("SN1", "Hikvision", OTHER), 403),
        (("", "Hikvision", ""), 403),
    ],
    ids=["unknown", "other maker", "no maker", "case", "claims another", "no serial"],
)
def test_a_makers_certificate_belongs_to_one_device(site, tmp_path, case, status):
    serial, maker, subject = case
    owner = kit.Maker()
    owner.write(site.certs)
    register(site, maker=maker)
    device = owner.device(serial)

    async def act(service):
        return await service.post("simpleenroll", b64(device.request(subject)), device)

    assert serving(site, tmp_path, act)[0] == status
    assert bool(list(site.registry.certificates(CAMERA))) == (status == 200)


def test_two_makers_may_number_alike(site, tmp_path):
    first, second = kit.Maker("Hikvision"), kit.Maker("Dahua")
    for maker in (first, second):
        maker.write(site.certs)
    register(site, CAMERA, "SN1", "Hikvision")
    register(site, OTHER, "SN1", "Dahua")
    devices = [first.device("SN1"), second.device("SN1")]

    async def act(service):
        found = []
        for device in devices:
            _, body, _ = await service.post("simpleenroll", b64(device.request("")), device)
            found.append(gbid_of(kit.certificates_in(base64.b64decode(body))[0]).value)
        return found

    assert serving(site, tmp_path, act) == [CAMERA, OTHER]


def test_cacerts_and_layouts(site, tmp_path):
    async def act(service):
        curl = await service.get("cacerts", headers={"User-Agent": "curl/8"})
        strongswan = await service.get("cacerts", skip_auto_headers=["User-Agent"])
        return curl, strongswan, await service.get("camera/cacerts"), await service.get("nothing/cacerts")

    curl, strongswan, labelled, unknown = serving(site, tmp_path, act)
    assert max(map(len, curl[1].splitlines())) <= 76
    assert b"\n" not in strongswan[1]
    everything = kit.certificates_in(base64.b64decode(curl[1]))
    assert site.open().root in everything
    assert everything == kit.certificates_in(base64.b64decode(strongswan[1]))
    assert len(kit.certificates_in(base64.b64decode(labelled[1]))) == 2
    assert unknown[0] == 404


def test_cacerts_holds_both_cas_in_a_rollover(site, tmp_path):
    authority = site.open()
    old = kit.Device().enrolled(authority)
    before = authority.certificates["devices"]

    async def act(service):
        rollover_ca(setting_of(site), "devices")
        service.doorkeeper.refresh()
        _, body, _ = await service.get("camera/cacerts")
        renewed = kit.Device()  # with a key of its own, by the certificate of the old CA
        status, answer, _ = await service.post("simplereenroll", b64(renewed.request()), old)
        return kit.certificates_in(base64.b64decode(body)), status, answer

    offered, status, answer = serving(site, tmp_path, act, authority=authority)
    cas = {row.name: row.x509() for row in site.registry.authorities().values()}
    assert {before, cas["devices-g2"], cas["root"]} == set(offered)
    assert status == 200
    (certificate,) = kit.certificates_in(base64.b64decode(answer))
    assert certificate.issuer == cas["devices-g2"].subject


def test_every_refusal_says_why(site, tmp_path):
    authority = site.open()
    device = kit.Device().enrolled(authority)
    foreign = kit.Device(key=device.key).request(extra=[(NameOID.ORGANIZATION_NAME, "somebody else")])

    async def act(service):
        good = b64(device.request())
        return [
            await service.post("simplereenroll", b64(foreign), device),
            await service.post("simplereenroll", b64(device.request("")), device),
            await service.post("simplereenroll", good),
            await service.post("simplereenroll", b"nonsense", device),
            await service.post("simplereenroll", good, device, headers={"Content-Type": "text/plain"}),
            await service.post("nothing/simpleenroll", good, device),
            await service.post("nowhere", good, device),
            await service.get("simpleenroll", device),
        ]

    answers = serving(site, tmp_path, act, authority=authority)
    assert [status for status, _, _ in answers] == [400, 400, 401, 400, 415, 404, 404, 405]
    for _, text, headers in answers:
        assert headers["Content-Type"].startswith("text/plain")
        assert len(text) > 12
        assert text.count(b"\n") == 1
    assert b"subject holds 'somebody else'" in answers[0][1]


def test_keys_are_made_only_where_the_profile_says_so(site, tmp_path):
    path = site.certs / "camera.yaml"
    path.write_text(path.read_text() + "server_keys: true\n")
    devices = [kit.Device().enrolled(site.open()) for _ in range(1)]

    async def act(service):
        body = b64(kit.Device().request())
        return (
            await service.post("serverkeygen", body, devices[0]),
            await service.post("media-signing/serverkeygen", body, devices[0]),
            await service.post("serverkeygen", body),
        )

    (status, body, headers), refused, stranger = serving(site, tmp_path, act)
    assert (status, refused[0], stranger[0]) == (200, 403, 401)
    message = email.message_from_bytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
    key, answer = message.get_payload()
    assert key.get_content_type() == "application/pkcs8"
    assert answer.get_content_type() == "application/pkcs7-mime"
    private = load_der_private_key(key.get_payload(decode=True), None)
    (certificate,) = kit.certificates_in(answer.get_payload(decode=True))
    assert certificate.public_key() == private.public_key()
    assert site.registry.active(CAMERA, "camera").key == ""


def test_a_bound_request_is_checked(site, tmp_path):
    device = kit.Device().enrolled(site.open())
    body = b64(kit.Device().request(challenge=base64.b64encode(b"another connection's")))

    async def act(service):
        return [
            (await service.post("simplereenroll", body, device, version=version))[0]
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        ]

    assert serving(site, tmp_path, act) == [400, 400]


def test_wrong_requests_get_a_sentence(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])
    auth = (CAMERA, made.secret)

    async def act(service):
        big = b"A" * (MAX_BODY + 1)
        body = b64(kit.Device().request())
        return {
            "type": await service.post("simpleenroll", body, auth=auth, headers={"Content-Type": "text/plain"}),
            "large": await service.post("simpleenroll", big, auth=auth),
            "zipped": await service.post("simpleenroll", body, auth=auth, headers={"Content-Encoding": "gzip"}),
            "path": await service.get("nothing"),
            "method": await service.get("simpleenroll"),
        }

    found = serving(site, tmp_path, act)
    assert {key: status for key, (status, _, _) in found.items()} == {
        "type": 415,
        "large": 413,
        "zipped": 415,
        "path": 404,
        "method": 405,
    }
    for _, text, headers in found.values():
        assert headers["Content-Type"].startswith("text/plain")
        assert text.count(b"\n") == 1
        assert b"Traceback" not in text
    assert not list(site.registry.certificates(CAMERA))


def test_when_the_ledger_refuses_nothing_is_given_out(site, tmp_path):
    (made,) = allow(site.open(), [CAMERA])
    device = kit.Device()

    async def act(service):
        site.recorder.broken = True
        first = await service.post("simpleenroll", b64(device.request()), auth=(CAMERA, made.secret))
        site.recorder.broken = False
        return first, await service.post("simpleenroll", b64(device.request()), auth=(CAMERA, made.secret))

    (status, text, headers), (later, _, _) = serving(site, tmp_path, act)
    assert status == 503
    assert b"PKCS" not in text
    assert headers["Retry-After"]
    assert later == 200


def test_mutated_requests_are_never_certified(site, tmp_path):
    authority = site.open()
    device = kit.Device().enrolled(authority)
    before = len(list(site.registry.certificates())) + 1  # the service's own
    draw = random.Random(7)
    good = kit.Device().request()

    def mutated() -> bytes:
        kind = draw.randrange(6)
        if kind == 0:
            body = bytearray(good)
            for _ in range(draw.randint(1, 8)):
                body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
            return b64(bytes(body))
        if kind == 1:
            at = draw.randrange(len(good))
            return b64(good[:at])
        if kind == 2:
            return draw.randbytes(draw.randrange(2000))
        if kind == 3:
            body = bytearray(b64(good))
            for _ in range(draw.randint(1, 8)):
                body[draw.randrange(len(body))] = draw.randrange(256)
            return bytes(body) if bytes(body).split() != b64(good).split() else b""
        if kind == 4:
            at = draw.randrange(len(good))
            return b64(good[:at] + draw.randbytes(draw.randint(1, 40)) + good[at:])
        return b"0" + draw.randbytes(draw.randrange(500))

    async def act(service):
        seen = {}
        url, context = f"{service.url}/simpleenroll", device.tls(tmp_path)
        async with kit.aiohttp.ClientSession(headers=kit.PKCS10) as session:
            for _ in range(10_000 if NIGHTLY else 300):
                async with session.post(url, data=mutated(), ssl=context) as answer:
                    text = await answer.read()
                seen[answer.status] = seen.get(answer.status, 0) + 1
                assert b"Traceback" not in text
        return seen

    seen = serving(site, tmp_path, act, authority=authority)
    assert set(seen) <= {400, 403}, seen
    after = list(site.registry.certificates())
    assert len(after) == before, after


def test_connections_are_bounded_and_must_speak(site, tmp_path, monkeypatch):
    monkeypatch.setattr("secguard.service.gate._SILENT_SECONDS", 0.5)

    async def act(service):
        port = int(service.url.split(":")[2].split("/")[0])
        context = kit.Device().tls(tmp_path)
        silent = [await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in range(4)]
        silent[0][1].write(b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\n")  # never goes on
        assert service.gate.count == 4
        try:
            await asyncio.open_connection("127.0.0.1", port, ssl=context)
            refused = False
        except OSError:
            refused = True
        ends = await asyncio.wait_for(
            asyncio.gather(*(reader.read() for reader, _ in silent), return_exceptions=True), 10
        )
        for _, writer in silent:
            writer.close()
        for _ in range(100):
            if not service.gate.count:
                break
            await asyncio.sleep(0.05)
        status, _, _ = await service.get("cacerts")
        return refused, len(ends), status

    assert serving(site, tmp_path, act, connections=8) == (True, 4, 200)


def test_handshakes_that_go_wrong_are_forgotten(site, tmp_path):
    async def act(service):
        port = int(service.url.split(":")[2].split("/")[0])
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            await writer.drain()
            writer.close()
        for _ in range(100):
            if not service.gate.count:
                break
            await asyncio.sleep(0.05)
        return service.gate.count

    assert serving(site, tmp_path, act) == 0


def test_a_device_cannot_enrol_without_end(site, tmp_path):
    device = kit.Device().enrolled(site.open())

    async def act(service):
        return [(await service.post("simplereenroll", b64(device.request()), device))[0] for _ in range(12)]

    statuses = serving(site, tmp_path, act)
    assert statuses[:10] == [200] * 10
    assert statuses[10:] == [429, 429]
