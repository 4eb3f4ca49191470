"""Fixtures of the video tests: clips and keys, made once a session."""

from pathlib import Path

import pytest
import video_kit as kit

__all__ = ["clip", "hevc", "pki", "signed", "vectors"]


@pytest.fixture(scope="session")
def vectors() -> Path:
    return Path(__file__).parents[1] / "vectors" / "onvif"


@pytest.fixture(scope="session")
def pki() -> kit.Pki:
    return kit.make_pki()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", options={"bf": "2"})


@pytest.fixture(scope="session")
def signed(clip: Path, pki: kit.Pki) -> Path:
    target = clip.with_name("signed.mp4")
    kit.sign_clip(clip, target, pki.camera)
    return target


@pytest.fixture(scope="session")
def hevc(tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    source = kit.make_clip(tmp_path_factory.mktemp("hevc") / "clip.mp4", codec="libx265", frames=36)
    target = source.with_name("signed.mp4")
    kit.sign_clip(source, target, pki.camera)
    return target
