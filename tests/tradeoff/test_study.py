"""A study runs every method with every seed, goes on where it stopped, and loses nothing."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmkd.tradeoff import results
from mmkd.tradeoff.metric import SHARED_ACCURACY
from mmkd.tradeoff.running import run
from mmkd.tradeoff.study import Study
from mmkd.types import ConfigError

BASE = {
    "data": {"class_path": "tests.tiny.TinyData", "init_args": {"batch_size": 16}},
    "model": {
        "vectorize": "always",
        "peers": {
            "cameras": {"count": 2, "student": {"class_path": "tests.tiny.Eye"}},
            "microphones": {"count": 2, "student": {"class_path": "tests.tiny.Ear"}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    },
}
METHODS: dict[str, Any] = {
    "isolated": {"schedule": {"local_steps": 3}},
    "fedavg": {
        "schedule": {"local_steps": 3},
        "topology": {"class_path": "Star"},
        "aggregation": {"class_path": "FedAvg"},
    },
}


def make_study(folder: Path) -> Study:
    """Two methods and two seeds, in files of a folder."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    for name, method in METHODS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"decentralized": method}))
    content = {
        "name": "tiny",
        "title": "A tiny study",
        "seeds": [0, 1],
        "configs": ["base.yaml"],
        "methods": {
            "isolated": {"label": "Isolated", "family": "none", "configs": ["isolated.yaml"]},
            "fedavg": {
                "label": "FedAvg",
                "family": "weights",
                "configs": ["fedavg.yaml"],
                "settings": {"model.peers.cameras.count": 3},
            },
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return Study.read(folder / "study.yaml")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the study, run once; tests that change them take a copy."""
    folder = tmp_path_factory.mktemp("done")
    run(make_study(folder), folder / "out", command="mmkd tradeoff study.yaml")
    return folder / "out"


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


def result(out: Path, method: str, seed: int) -> Any:
    return json.loads((out / "runs" / method / f"seed{seed}" / "result.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_same_numbers(one: Path, two: Path, method: str, seed: int) -> None:
    first, second = (result(out, method, seed) for out in (one, two))
    assert (first["test"], first["ledger"]) == (second["test"], second["ledger"])


def break_method(study: Study, name: str) -> None:
    rate = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    study.methods[name] = replace(
        study.methods["isolated"], settings={"model.peers.cameras.student.init_args.optimizer": rate}
    )


def test_every_method_with_every_seed(done: Path) -> None:
    page = json.loads((done / "study.json").read_text())
    assert page["seeds"] == [0, 1]
    assert page["command"] == "mmkd tradeoff study.yaml"
    assert "torch" in page["versions"]
    for seed in (0, 1):
        assert result(done, "isolated", seed)["ledger"]["bytes_per_peer"] == 0
        fedavg = result(done, "fedavg", seed)
        assert len(fedavg["peers"]) == 3 + 2  # the single setting reached its leaf
        assert fedavg["settings"]["model.peers.cameras.count"] == 3
        assert fedavg["ledger"]["rounds"] == 2
        rows = table(done / f"runs/fedavg/seed{seed}/ledger.csv")
        counted = sum(int(row["bytes"]) for row in rows if row["kind"] != "framing")
        assert counted == fedavg["ledger"]["bytes_per_peer"] * 5 > 0
        curve = table(done / f"runs/fedavg/seed{seed}/curve.csv")
        assert [(r["split"], r["round"]) for r in curve[::5]] == [("val", "1"), ("val", "2"), ("test", "2")]
    one, two = (result(done, "isolated", s)["test"] for s in (0, 1))
    assert one != two  # another seed is another split


def test_what_runs_leave_can_be_read(done: Path) -> None:
    found = results.read(done)
    assert found.missing == []
    assert found.metric == SHARED_ACCURACY
    for method in found.methods:
        for one in method.runs:
            tested = result(done, method.name, one.seed)["test"]
            assert one.scores == {name: kinds["shared_accuracy"] for name, kinds in tested.items()}
            assert len(one.curve) == 2


def test_another_study_gives_the_same_numbers_in_any_order_and_packed_for_other_processes(
    study: Study,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a process of its own is given and gives back is pickled; here it comes back to this one."""

    def elsewhere(processes: int, do: Any, over: list[Any]) -> Iterator[Any]:
        assert processes == 2
        packed = {one: pickle.dumps((do, one)) for one in reversed(over)}
        ends = {}
        for one, bytes_ in packed.items():
            call, argument = pickle.loads(bytes_)
            ends[one] = pickle.loads(pickle.dumps(call(argument)))
        yield from map(ends.__getitem__, over)

    monkeypatch.setattr("mmkd.tradeoff.running.each", elsewhere)
    break_method(study, "broken")
    run(study, tmp_path / "out", command="", seeds=[0], jobs=2)
    assert capsys.readouterr().out.count("mmkd: broken, seed") == 1
    for method in METHODS:
        assert_same_numbers(done, tmp_path / "out", method, 0)


@pytest.mark.long
def test_runs_side_by_side_give_the_numbers_of_runs_in_turn(
    study: Study, done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And one that diverges in a process of its own is noted as it is in turn."""
    break_method(study, "broken")
    run(study, tmp_path / "side", command="", jobs=2)
    assert capfd.readouterr().out.count("mmkd: broken, seed") == 2
    for method in METHODS:
        for seed in study.seeds:
            assert_same_numbers(done, tmp_path / "side", method, seed)


def test_a_study_without_processes_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one process, not 0"):
        run(study, tmp_path / "out", command="", jobs=0)


def test_what_is_done_is_not_done_again(study: Study, done: Path, copied: Path) -> None:
    lost = copied / "runs/fedavg/seed1"
    shutil.rmtree(lost)
    kept = {path: path.stat().st_mtime_ns for path in copied.glob("runs/*/*/result.json")}
    assert len(kept) == 3
    run(study, copied, command="")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_numbers(done, copied, "fedavg", 1)


def test_a_run_that_was_cut_off_goes_on(
    study: Study, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after the first epoch: the second run starts from its checkpoint and ends the same."""
    from mmkd.callbacks import Recorder

    real = Recorder.on_validation_end

    def cut(self: Recorder, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.state.fn == "fit" and trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "on_validation_end", cut)
    out = tmp_path / "out"
    with pytest.raises(SystemExit):  # which Lightning makes of it
        run(study, out, command="", only=["fedavg"], seeds=[0])
    assert (out / "runs/fedavg/seed0/checkpoint/last.ckpt").exists()
    monkeypatch.setattr(Recorder, "on_validation_end", real)
    run(study, out, command="", only=["fedavg"], seeds=[0])
    assert_same_numbers(done, out, "fedavg", 0)
    curves = [(folder / "runs/fedavg/seed0/curve.csv").read_text() for folder in (done, out)]
    assert curves[0] == curves[1]


def test_a_folder_of_another_study_is_left_alone(study: Study, copied: Path, tmp_path: Path) -> None:
    saved = (copied / "study.json").read_text()
    study.name = "huge"
    with pytest.raises(ConfigError, match="already holds another study, 'tiny', and this is 'huge'"):
        run(study, copied, command="", seeds=[0])
    assert (copied / "study.json").read_text() == saved
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    with pytest.raises(ConfigError, match="is not empty and holds no study"):
        run(study, tmp_path / "photos", command="")


def test_a_method_that_diverges_does_not_stop_the_study(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_method(study, "isolated")
    run(study, tmp_path / "out", command="", seeds=[0])
    assert "isolated, seed 0 has no result: peer 'cameras/" in capsys.readouterr().out
    assert (tmp_path / "out/runs/fedavg/seed0/result.json").exists()
    [missing] = results.read(tmp_path / "out").missing
    assert missing.startswith("Isolated, seed 0: peer 'cameras/")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no study file"),
        ("a: [", "line 2: this is no YAML"),
        ("name: x", "is no study"),
        (
            "{name: x, title: x, seeds: [0], configs: [no.yaml], methods: {a: {label: a, family: none}}}",
            "no.yaml",
        ),
    ],
)
def test_bad_study_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Study.read(path)


ONE = "{name: x, title: x, seeds: [0], configs: [], methods: {a: {label: a, family: none}}}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: x", "titel: x", r"has no 'titel'; did you mean title\?"),
        ("configs: []", "configs: [], path: x", "has no 'path'"),
        ("label: a", "lable: a", r"methods.a has no 'lable'; did you mean label\?"),
        ("family: none", "family: none, path: x", "methods.a has no 'path'"),
        ("label: a, ", "", "methods.a is no method: it needs 'label'"),
        ("family: none", "family: nun", "methods.a: family must be one of none, weights"),
        ("configs: []", "configs: [], search: {trails: 3}", r"search has no 'trails'; did you mean trials\?"),
        ("configs: []", "configs: [], search: {settings: {a: 3}}", "search: settings must be a list, not 3"),
        ("family: none", "family: none, like: b", "'a' is like 'b', which is no method"),
        ("{a: ", "{../../../escaped: ", "cannot be called '../../../escaped', which contains /"),
        ("{a: ", "{'': ", "cannot be called '', which is empty"),
        ("{a: ", "{all: ", "cannot be called 'all', which stands for all methods"),
        ("methods: ", "metods: ", r"has no 'metods'; did you mean methods\?"),
    ],
)
def test_what_a_study_file_says_wrong_is_named_with_what_is_like_it(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(ONE)
    assert list(Study.read(path).methods) == ["a"]
    assert ONE.count(old) >= 1
    path.write_text(ONE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        Study.read(path)


def test_unknown_methods_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no method nonsense"):
        run(study, tmp_path / "out", command="", only=["nonsense"])


def test_a_slip_in_the_last_method_shows_before_the_first_runs(study: Study, tmp_path: Path) -> None:
    [*_, last] = study.methods.values()
    last.settings["decentralized.schedule.local_stepz"] = 3
    with pytest.raises(ConfigError, match=r"methods.isolated: .* 'local_stepz'; did you mean local_steps"):
        run(study, tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_settings_may_be_words(study: Study, tmp_path: Path) -> None:
    study.methods["fedavg"].settings["decentralized.aggregation.init_args.optimizer_state"] = "keep"
    config = study.configure(tmp_path / "out", "fedavg", 0, []).config
    assert config.decentralized.aggregation.init_args.optimizer_state == "keep"
