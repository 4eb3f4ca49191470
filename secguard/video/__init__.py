"""Floor 5: is a recording what its camera recorded? ONVIF Media Signing, segment manifests, one verdict.

`sign` puts signatures into a recording and writes a manifest beside it; `seal_files` writes a manifest for any file,
`seal_recording` the chain of a folder; `verify` judges one file, `judge_recording` a chain. Nothing here decodes.
"""

from secguard.video.frames import Frames, frame_offsets
from secguard.video.manifest import PAYLOAD_TYPE, Manifest, OpenedManifest
from secguard.video.recording import RecordingVerdict, judge_recording
from secguard.video.recording_seal import seal_files, seal_recording
from secguard.video.seal import Sealer
from secguard.video.sign import Signed, manifest_path, sign
from secguard.video.timeline import Timeline
from secguard.video.verify import DEFAULT_AXES, Expectation, VideoVerdict, verify

__all__ = [
    "DEFAULT_AXES",
    "PAYLOAD_TYPE",
    "Expectation",
    "Frames",
    "Manifest",
    "OpenedManifest",
    "RecordingVerdict",
    "Sealer",
    "Signed",
    "Timeline",
    "VideoVerdict",
    "frame_offsets",
    "judge_recording",
    "manifest_path",
    "seal_files",
    "seal_recording",
    "sign",
    "verify",
]
