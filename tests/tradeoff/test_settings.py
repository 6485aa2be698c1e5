"""Of the settings of a run a report shows those that somebody has chosen."""

from __future__ import annotations

from typing import Any

import torch

from mmkd.federated import FedAdam
from mmkd.tradeoff.settings import changed, defaults


def test_defaults_are_those_of_a_class_and_of_its_bases() -> None:
    """The nearest wins, and tuples are lists, as in a file; of a function they are its own."""
    found = defaults(FedAdam)
    assert found["server_lr"] == 0.1
    assert found["betas"] == [0.9, 0.99]
    assert found["buffers"] == "average"
    assert "self" not in found
    assert defaults(torch.optim.Adam)["eps"] == 1e-8
    assert defaults(lambda a, b=2: a) == {"b": 2}


def test_what_is_as_usual_is_not_shown() -> None:
    """Classes stay, however usual their arguments; what a class does not know is shown as it is."""
    adam = {"lr": 0.004, "betas": [0.9, 0.999], "eps": 1e-8}
    student = {
        "class_path": "mmkd.students.VisionStudent",
        "init_args": {
            "width": 16,
            "heads": 1,
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": adam},
        },
    }
    config: dict[str, Any] = {
        "trainer": {"max_epochs": 3},
        "model": {
            "vectorize": "always",
            "init": "shared",
            "peers": {"cameras": {"student": student, "count": 4, "ids": None, "learning_rate_scale": 1.0}},
        },
        "decentralized": {
            "knowledge": None,
            "topology": {"class_path": "mmkd.topology.Star", "init_args": {"hub": "hub"}},
            "schedule": {"local_steps": 25, "block": 10, "rounds_per_epoch": 1},
        },
    }
    camera = "model.peers.cameras.student"
    assert changed(config) == {
        "decentralized.topology.class_path": "mmkd.topology.Star",
        "decentralized.schedule.local_steps": 25,
        "model.vectorize": "always",
        f"{camera}.class_path": "mmkd.students.VisionStudent",
        f"{camera}.init_args.heads": 1,
        f"{camera}.init_args.optimizer.class_path": "torch.optim.Adam",
        f"{camera}.init_args.optimizer.init_args.lr": 0.004,
        "model.peers.cameras.count": 4,
    }
