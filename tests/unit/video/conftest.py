"""The fixtures of the video tests lie in tests/support."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from video_fixtures import clip, hevc, pki, signed, vectors

__all__ = ["clip", "hevc", "pki", "signed", "vectors"]
