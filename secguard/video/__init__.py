"""Floor 5: is a recording what its camera recorded? ONVIF Media Signing, segment manifests, one verdict.

`sign` puts signatures into an MP4 file and writes a manifest beside it; `verify` judges one. Nothing here decodes.
"""

from secguard.video.frames import Frames, frame_offsets
from secguard.video.manifest import PAYLOAD_TYPE, Manifest, OpenedManifest
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
    "Signed",
    "Timeline",
    "VideoVerdict",
    "frame_offsets",
    "manifest_path",
    "sign",
    "verify",
]
