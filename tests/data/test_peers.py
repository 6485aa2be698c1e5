"""Who may be a peer of a datamodule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from mmkd.federated import FedAvg
from mmkd.knowledge import Prototypes
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, TinyData, fit, fleets, schedule


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


class Asked(TinyData):
    """Counts how often it is asked for the samples of each peer and split."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = Counter[tuple[str, str]]()

    def private(self, peer: str, split: str) -> Any:
        self.asked[peer, split] += 1
        return super().private(peer, split)


def test_a_run_asks_once_for_the_samples_of_a_peer_and_anew_once_peers_are_assigned() -> None:
    """Through batches, class means at every exchange and validation; and again for tests, which assign peers."""
    data, cohort = Asked(batch_size=16), Cohort(fleets(), CLASSES)
    callback = DecentralizedCallback(Prototypes(), FedAvg(), Star(), schedule(knowledge_every=1))
    run = fit(cohort, callback, data, max_epochs=2)
    data.val_dataloader()
    assert data.asked == {(peer, split): 1 for peer in cohort.names for split in ("train", "val")}
    before = data.held("cameras/0", "train")
    assert data.held("cameras/0", "train") is before
    run.test(cohort, datamodule=data, verbose=False)
    assert data.held("cameras/0", "train") is not before
    assert {data.asked[peer, "test"] for peer in cohort.names} == {1}
    assert {data.asked[peer, "train"] for peer in cohort.names} == {2}
