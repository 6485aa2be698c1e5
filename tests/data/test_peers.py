"""Who may be a peer of a datamodule."""

from __future__ import annotations

import pytest

from mmkd.types import ConfigError
from tests.tiny import TinyData


def test_a_peer_may_read_several_of_the_modalities() -> None:
    peers = {"eyes/0": "image", "robots/1": "audio+image", "robots/0": "audio+image", "ears/0": "audio"}
    data = TinyData(peers=peers)
    assert data.peers == peers
    assert data.of("audio+image") == ["robots/0", "robots/1"]
    assert data.of("image") == ["eyes/0"]


@pytest.mark.parametrize("modality", ["smell", "image+smell", "smell+image", "image+", ""])
def test_a_modality_that_the_data_lack_is_refused(modality: str) -> None:
    with pytest.raises(ConfigError, match=r"peer 'a' reads '(smell)?', which TinyData does not have"):
        TinyData(peers={"a": modality})
