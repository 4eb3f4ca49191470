"""README.txt of a bundle: what it is and how to verify it, in English and Chinese, for readers without secguard."""

from secguard.evidence.manifest import BundleManifest
from secguard.evidence.scan_verdict import OUTCOMES, WHEN, roles_of

__all__ = ["readme"]

_TEXT = """\
EVIDENCE BUNDLE {id}
Case {case}, exported {created} by {operator}.

What is inside
  video/recording.mp4       the recording, as it lies at the site ("{name}")
  video/manifest.json       its segment manifest, signed by the camera's key (DSSE)
  video/clip.json           if it is a clip: what it was cut from, for which case; it holds the camera's manifests
  verdict.json              what the site's own verification said at export
  receipts/                 proofs that the acts on this recording are in the site's log "{origin}"
  isolation/                isolation scans: was the video network apart from others; signed, recorded in the log
  checkpoint.txt            the log's signed checkpoint: {log_size} entries (C2SP tlog-checkpoint)
  chains/, crls/            certificates and revocation lists of camera, log and operator
  bundle.dsse.json          list of all files with size and SHA-256, signed by the operator (DSSE)

Isolation of the site's zones, as the site states it
{scans_en}

How to verify
  1. Get the ROOT CERTIFICATE from the authority itself, NOT together with this bundle.
  2. On any machine with secguard, without a network:
         secguard evidence verify BUNDLE.zip --root root.pem
     Exit code 0: everything holds. 1: something was changed or is wrong; it is named. 3: something cannot be judged.
  3. Without secguard: bundle.dsse.json holds the list, base64 in "payload". Compare each file:
         sha256sum video/recording.mp4
     and check the operator's certificate against the root:
         openssl verify -CAfile root.pem -untrusted chains/operator.pem chains/operator.pem

A bundle proves that nothing changed since the camera's key signed and the log recorded it. It does not prove what
stood before the lens.

------------------------------------------------------------------------------------------------------------------------

证据包 {id}
案件 {case}，由 {operator} 于 {created} 导出。

内容
  video/recording.mp4       录像文件，与现场保存的文件（“{name}”）一致
  video/manifest.json       录像分段清单，由摄像机密钥签名（DSSE）
  video/clip.json           若为片段：其来源、案件与审批，内含摄像机签名的分段清单
  verdict.json              导出时现场验证的结论
  receipts/                 回执：证明对该录像的各项操作均已记入日志“{origin}”
  isolation/                隔离扫描：视频网络与其他网络是否隔离，已签名并记入日志
  checkpoint.txt            日志的签名检查点：共 {log_size} 条（C2SP tlog-checkpoint）
  chains/、crls/            摄像机、日志和操作员的证书与吊销列表
  bundle.dsse.json          全部文件的大小与 SHA-256 清单，由操作员签名（DSSE）

现场各区域的隔离情况（现场陈述）
{scans_zh}

如何验证
  1. 请直接向发证机构获取根证书，切勿与本证据包一同获取。
  2. 在任何装有 secguard 的机器上（无需联网）：
         secguard evidence verify BUNDLE.zip --root root.pem
     退出码 0：全部成立；1：有改动或错误，并指明位置；3：有事项无法判定。
  3. 没有 secguard 时：bundle.dsse.json 的 "payload"（base64）即文件清单，逐一比对：
         sha256sum video/recording.mp4
     并以根证书检验操作员证书：
         openssl verify -CAfile root.pem -untrusted chains/operator.pem chains/operator.pem

证据包证明：自摄像机密钥签名并记入日志以来，内容未被改动。它不证明镜头前发生的事情本身。
"""


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:200]


def _scans(manifest: BundleManifest, lang: str) -> str:
    """A line a scan, or one that says that there is none."""
    lines = []
    for scan in manifest.scans:
        when, said = WHEN[roles_of(scan)][lang], OUTCOMES[scan.outcome][lang]
        lines.append(
            f"  last scan before {when}: {scan.recorded}, {said}"
            if lang == "en"
            else f"  {when}前最近一次扫描：{scan.recorded}，{said}"
        )
    return "\n".join(lines) or ("  no scan is recorded" if lang == "en" else "  没有扫描记录")


def readme(manifest: BundleManifest) -> bytes:
    """The text, UTF-8, lines end in CR LF so that every editor shows it right."""
    text = _TEXT.format(
        id=manifest.id,
        case=_line(manifest.case),
        created=manifest.created,
        operator=_line(manifest.operator),
        name=_line(manifest.recording.name),
        origin=_line(manifest.origin),
        log_size=manifest.log_size,
        scans_en=_scans(manifest, "en"),
        scans_zh=_scans(manifest, "zh"),
    )
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8", "replace")
