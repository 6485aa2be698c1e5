"""The commands of networks: what they refuse, and a network that begins again where it stopped."""

from __future__ import annotations

import csv
import io
import ssl
import stat
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import torch
import yaml

from mmkd.__main__ import main
from mmkd.callbacks.round_checkpoints import found, path_of
from mmkd.network import peer, status
from mmkd.network.keys import make
from mmkd.network.local import configured, divided
from mmkd.transport.introduction import Introduction
from mmkd.types import ConfigError
from tests.transport.test_zenoh import ends, free_ports

pytest.importorskip("zenoh")

CONFIG = {
    "data": {"class_path": "mmkd.testing.aggregations.PointData", "init_args": {"batch_size": 4}},
    "model": {
        "vectorize": "never",
        "peers": {"points": {"count": 3, "student": {"class_path": "mmkd.testing.aggregations.Points"}}},
    },
    "trainer": {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    },
    "decentralized": {
        "schedule": {"local_steps": 2, "rounds_per_epoch": 2},
        "topology": {"class_path": "Star"},
        "aggregation": {"class_path": "Scaffold", "init_args": {"among": "all"}},
    },
}
PARTS = [["points/0"], ["points/1", "points/2"]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def process(i: int, file: Path, folder: Path, ports: list[int], epochs: int) -> str:
    """One process of two, until so many epochs have passed since the network first began."""
    places = [f"tcp/127.0.0.1:{port}" for port in ports]
    place = peer.Place("test", PARTS[i], [places[i]], places[:i], i == 0, deadline=20.0, gather=30.0)
    peer.run([f"--config={file}", f"--trainer.max_epochs={epochs}"], place, folder / str(i))
    return "ended"


def test_a_network_goes_on_after_the_newest_round_that_all_have_saved(file: Path, tmp_path: Path) -> None:
    """One process has lost its last checkpoint; in the end all is as if nothing had happened."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert ends(2, partial(process, file=file, folder=whole, ports=free_ports(2), epochs=3)) == ["ended"] * 2
    assert ends(2, partial(process, file=file, folder=cut, ports=free_ports(2), epochs=2)) == ["ended"] * 2
    assert [sorted(found(cut / str(i) / "checkpoints")) for i in (0, 1)] == [[2, 3], [2, 3]]
    path_of(cut / "1" / "checkpoints", 3).unlink()
    assert ends(2, partial(process, file=file, folder=cut, ports=free_ports(2), epochs=3)) == ["ended"] * 2
    for i in (0, 1):
        last = [torch.load(path_of(folder / str(i) / "checkpoints", 5)) for folder in (whole, cut)]
        assert str(last[0]["state_dict"]) == str(last[1]["state_dict"])
        for name in ("ledger.csv", "curve.csv"):
            texts = [(folder / str(i) / name).read_text() for folder in (whole, cut)]
            assert texts[0] == texts[1], name
    rows = csv.DictReader((cut / "1" / "curve.csv").read_text().splitlines())
    assert {row["peer"] for row in rows} == {"points/1", "points/2"}


def test_a_full_disk_at_a_checkpoint_ends_that_process_in_a_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before stays, the others wait for it, and with room again all go on together."""
    checkpoints, ports = tmp_path / "1" / "checkpoints", free_ports(2)

    def token(_: int) -> str:
        part = checkpoints / f"round-3.ckpt.{'0' * 16}.part"
        if (checkpoints / "round-2.ckpt").exists() and not part.is_symlink():
            part.symlink_to("/dev/full")
        return "0" * 16

    def full(i: int) -> str:
        monkeypatch.setattr("mmkd.files.token_hex", token if i else token_hex)
        connect = ["--hosts", f"tcp/127.0.0.1:{ports[0]}"] if i else ["--hub"]
        with redirect_stderr(io.StringIO()) as text:
            status = main(
                [
                    *("peer", f"-c={file}", "--own", *PARTS[i], "--listen", f"tcp/127.0.0.1:{ports[i]}"),
                    *(*connect, "--deadline", "2", "--folder", str(tmp_path / str(i))),
                    "--trainer.max_epochs=3",
                ]
            )
        return "\n".join([str(status), *(ln for ln in text.getvalue().splitlines() if ln[:5] == "mmkd:")])

    first, second = ends(2, full)
    assert second.startswith("2\nmmkd: [Errno 28] No space left on device: ")
    assert second.endswith("round-3.ckpt'; make room and go on, for what was whole on the disk still is")
    assert first.startswith("75\nmmkd: the process of 'points/1' has been silent for 2 s")
    assert sorted(found(checkpoints)) == [1, 2]
    again = partial(process, file=file, folder=tmp_path, ports=free_ports(2), epochs=3)
    assert ends(2, again) == ["ended"] * 2
    assert max(found(checkpoints)) == 5


def test_peers_are_divided_among_processes(file: Path) -> None:
    options: Any = type("Options", (), {"config": [str(file)]})()
    names = list(configured(options, []).model.roster[0])
    assert divided(names, 2) == PARTS
    with pytest.raises(ConfigError, match="there are 3 peers; give --processes 3 or fewer"):
        divided(names, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["network", "up", "--processes", "0"], "--processes is at least 1"),
        (["network", "up", "--port", "65535"], "ports are below 65536"),
        (["network", "keys", "FOLDER", "--process", "a/0", "--hosts", "127.0.0.1"], "is not empty"),
        (["peer", "--own", "points/0", "--study", "a/b", "-c", "FILE"], "a study cannot be called 'a/b'"),
        (["peer", "--own", "points/7", "-c", "FILE"], "model.own names 'points/7', which is no peer"),
        (["peer", "--own", "points/0", "-c", "FILE", "--listen", "tcp/0.0.0.0:7447"], "could take part"),
        (["peer", "--own", "points/0", "-c", "FILE", "--gather", "0.2"], "nobody has come who holds"),
    ],
)
def test_what_has_no_meaning_is_one_line(
    arguments: list[str], message: str, file: Path, tmp_path: Path
) -> None:
    """In a process of its own: a fork of one in which Zenoh has run would wait for its threads for ever."""
    given = {"FILE": str(file), "FOLDER": str(tmp_path)}
    folder = ["--folder", str(tmp_path / "out")] if arguments[0] == "peer" else []

    def said(_: int) -> str:
        with redirect_stderr(io.StringIO()) as text:
            status = main([*(given.get(word, word) for word in arguments), *folder])
        return f"{status}\n{text.getvalue()}"

    [got] = ends(1, said)
    assert got.startswith("2\n")
    [line] = [line for line in got.splitlines() if line.startswith("mmkd: ")]
    assert message in line


def test_keys_are_for_their_process_alone(tmp_path: Path) -> None:
    """Nobody else can read them, they fit together, and the authority's key is in no process's folder."""
    folder = tmp_path / "keys"
    made = make(folder, [["a/0"], ["b/0", "b/1"]], "hub", ["127.0.0.1", "example.org"], 30)
    assert [path.name for path in made] == ["a-0", "b-0"]
    for path in made:
        assert sorted(file.name for file in path.iterdir()) == [
            "access.json",
            "authority.pem",
            "certificate.pem",
            "key.pem",
        ]
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.iterdir())
        context = ssl.create_default_context(cafile=str(path / "authority.pem"))
        context.load_cert_chain(path / "certificate.pem", path / "key.pem")  # which refuses a key of another
    assert (made[0] / "access.json").read_text() == (made[1] / "access.json").read_text()
    with pytest.raises(ConfigError, match="is not empty"):
        make(folder, [["c/0"]], None, ["127.0.0.1"], 30)


def test_a_table_says_who_is_there() -> None:
    told = Introduction("a/0", "x", True, "0", ("a/0", "a/1", "a/2", "a/3"), (), 7, {"logits": 1500})
    waits = Introduction("b/0", "y", False, "0", ("b/0",))
    text = status.table([told, waits]).splitlines()
    assert text[1].split() == [
        "a/0",
        "a/0,",
        "a/1,",
        "a/2",
        "and",
        "1",
        "more",
        "yes",
        "7",
        "logits",
        "1.50",
        "kB",
    ]
    assert text[2].split() == ["b/0", "b/0", "waits", "nothing"]
    assert status.table([]) == "nobody is there"
