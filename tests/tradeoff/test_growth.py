"""A study that grows or is corrected keeps what is still true, runs what is new and asks about the rest."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import mmkd
from mmkd.tradeoff import growth, results, running
from mmkd.tradeoff.identity import Identity, differences, digest, identity
from mmkd.tradeoff.study import Study
from mmkd.types import ConfigError, DivergedError

RULE = '''
class Mine:
    def __init__(self, rate: float = 0.5) -> None:
        """Keep the rate."""
        self.rate = rate
'''
CONTENT: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny study",
    "seeds": [0, 1],
    "configs": ["base.yaml"],
    "methods": {
        "alone": {"label": "Alone", "family": "none", "settings": {"model.clip": 1.0}},
        "mine": {"label": "Mine", "family": "weights", "configs": ["mine.yaml"]},
    },
}
ALL_FOUR = {("alone", 0), ("alone", 1), ("mine", 0), ("mine", 1)}
OF_MINE = {("mine", 0), ("mine", 1)}


class Place:
    """A study in a folder, whose runs write files and train nothing.

    Args:
        folder: of the study; its results are in ``out``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.content = folder, folder / "out", json.loads(json.dumps(CONTENT))
        self.ran: set[tuple[str, int]] = set()
        self.fails: dict[tuple[str, int], BaseException] = {}
        (folder / "own_rule.py").write_text(RULE)
        (folder / "base.yaml").write_text("trainer: {max_epochs: 2}\n")
        (folder / "mine.yaml").write_text("decentralized: {aggregation: {class_path: own_rule.Mine}}\n")

    def run(self, *redo: str, **more: Any) -> bool:
        """Run the study as its file is now; ``ran`` has what was not kept."""
        self.ran.clear()
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(self.content, sort_keys=False))
        return running.run(Study.read(path), self.out, command="", redo=redo, **more)

    def train(
        self, study: Study, folder: Path, name: str, seed: int, settings: Any, made_of: Identity
    ) -> None:
        """In place of a run."""
        growth.begin(folder, made_of)
        if (name, seed) in self.fails:
            (folder / "checkpoint").mkdir(exist_ok=True)
            (folder / "checkpoint" / "last.ckpt").write_text("")
            raise self.fails[name, seed]
        self.ran.add((name, seed))
        (folder / "curve.csv").write_text("round\n1\n")
        growth.finish(folder, {"method": name, "seed": seed, "score": 0.5})
        (folder / "failed.json").unlink(missing_ok=True)


def configured(study: Study, folder: Path, name: str, seed: int, settings: Any) -> Any:
    """What the files and settings of a method say, without a parser that takes half a second."""
    config: dict[str, Any] = {"seed_everything": seed, "recorder": {"folder": str(folder)}}
    for file in [*study.configs, *study.methods[name].configs]:
        config |= yaml.safe_load((study.path.parent / file).read_text())
    for key, value in study.methods[name].settings.items():
        part, _, last = key.partition(".")
        config[part] = config.get(part, {}) | {last: value}
    return SimpleNamespace(config=config, parser=SimpleNamespace(dump=yaml.safe_dump))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A study whose four runs are finished."""
    made = Place(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own_rule", None)  # of another test
    monkeypatch.setattr(Study, "configure", configured)
    monkeypatch.setattr(running, "_run", made.train)
    assert made.run()
    assert made.ran == ALL_FOUR
    return made


def add_method(place: Place) -> None:
    place.content["methods"]["late"] = {"label": "Late", "family": "none"}


def add_seed(place: Place) -> None:
    place.content["seeds"].append(7)


def relabel(place: Place) -> None:
    place.content |= {"title": "Another", "notes": ["A note."], "tuning": "By hand."}
    place.content["methods"]["mine"] |= {"label": "My own", "description": "It keeps a rate."}


def rename_file(place: Place) -> None:
    text = (place.folder / "mine.yaml").read_text()
    (place.folder / "mine.yaml").unlink()
    (place.folder / "ours.yaml").write_text(f"# A comment.\n{text}")
    place.content["methods"]["mine"]["configs"] = ["ours.yaml"]


def say_a_default(place: Place) -> None:
    with (place.folder / "mine.yaml").open("w") as file:
        file.write("decentralized: {aggregation: {class_path: own_rule.Mine, init_args: {rate: 0.5}}}")


def comment_code(place: Place) -> None:
    text = RULE.replace("Keep the rate.", "Keep it.").replace("self.rate", "# Kept.\n        self.rate")
    (place.folder / "own_rule.py").write_text(text)


def copy_folder(place: Place) -> None:
    place.out = Path(shutil.copytree(place.out, place.folder / "copy"))


def remove_method(place: Place) -> None:
    del place.content["methods"]["mine"]


@pytest.mark.parametrize(
    ("change", "new"),
    [
        (lambda place: None, set()),
        (add_method, {("late", 0), ("late", 1)}),
        (add_seed, {("alone", 7), ("mine", 7)}),
        (relabel, set()),
        (rename_file, set()),
        (say_a_default, set()),
        (comment_code, set()),
        (copy_folder, set()),
        (remove_method, set()),
    ],
)
def test_what_is_still_true_is_kept(
    change: Callable[[Place], None], new: set[tuple[str, int]], place: Place
) -> None:
    before = {path: path.read_bytes() for path in place.out.glob("runs/*/*/*.*")}
    change(place)
    assert place.run()
    assert place.ran == new
    assert {path: path.read_bytes() for path in before} == before


def test_the_page_has_the_words_of_today(place: Place) -> None:
    relabel(place)
    place.run()
    page = json.loads((place.out / "study.json").read_text())
    assert (page["title"], page["notes"], page["methods"]["mine"]["label"]) == (
        "Another",
        ["A note."],
        "My own",
    )


def change_setting(place: Place) -> None:
    (place.folder / "mine.yaml").write_text(
        "decentralized: {aggregation: {class_path: own_rule.Mine, init_args: {rate: 0.7}}}"
    )


def change_code(place: Place) -> None:
    (place.folder / "own_rule.py").write_text(RULE.replace("= rate", "= 2 * rate"))


def edit_result(place: Place) -> None:
    path = place.out / "runs/mine/seed1/result.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))


def edit_curve(place: Place) -> None:
    (place.out / "runs/mine/seed1/curve.csv").write_text("round\n2\n")


def cut_result(place: Place) -> None:
    path = place.out / "runs/mine/seed1/result.json"
    path.write_text(path.read_text()[:-9])


def swap_seeds(place: Place) -> None:
    shutil.rmtree(place.out / "runs/mine/seed1")
    shutil.copytree(place.out / "runs/mine/seed0", place.out / "runs/mine/seed1")


def of_an_older_mmkd(place: Place) -> None:
    (place.out / "runs/mine/seed1/identity.json").unlink()
    (place.out / "runs/mine/seed1/result.json").write_text('{"method": "mine", "seed": 1}')


@pytest.mark.parametrize(
    ("change", "redone", "said"),
    [
        (change_setting, OF_MINE, "decentralized.aggregation.init_args.rate was its default and is 0.7"),
        (change_code, OF_MINE, "the code of own_rule.Mine has changed ("),
        (edit_result, {("mine", 1)}, "result.json was changed after the run"),
        (edit_curve, {("mine", 1)}, "curve.csv was changed after the run"),
        (cut_result, {("mine", 1)}, "result.json cannot be read"),
        (swap_seeds, {("mine", 1)}, "seed_everything was 0 and is 1"),
        (of_an_older_mmkd, {("mine", 1)}, "an older mmkd wrote it, which did not keep what it was made of"),
    ],
)
def test_what_has_changed_is_named_and_done_again_where_that_is_asked(
    change: Callable[[Place], None],
    redone: set[tuple[str, int]],
    said: str,
    place: Place,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing runs before, the new method neither; then the old runs stay beside the new ones."""
    change(place)
    add_method(place)
    late = {("late", 0), ("late", 1)}
    old = {run: _files(place.out / "runs" / run[0] / f"seed{run[1]}") for run in redone}
    page = (place.out / "study.json").read_bytes()
    with pytest.raises(ConfigError, match=r"runs of mine are not what .* --redo mine .*or --redo all"):
        place.run()
    assert (place.ran, (place.out / "study.json").read_bytes()) == (set(), page)
    lines = capsys.readouterr().err.splitlines()
    assert next(line for line in lines if said in line).startswith("changed:    mine, seed")
    assert "kept:       alone, seeds 0, 1" in lines
    assert "new:        late, seeds 0, 1" in lines
    assert place.run("mine")
    assert place.ran == redone | late
    for name, seed in redone:
        assert _files(place.out / "runs" / name / f"seed{seed}.1") == old[name, seed]
    place.run("mine")  # the same command again
    assert place.ran == set()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_redo_keeps_the_first(place: Place) -> None:
    for number in (1, 2):
        place.content["methods"]["alone"]["settings"]["model.clip"] = 1.0 + number
        place.run("all")
        assert place.ran == {("alone", 0), ("alone", 1)}
    assert (place.out / "runs/alone/seed1.1").is_dir()
    assert (place.out / "runs/alone/seed1.2").is_dir()


@pytest.mark.parametrize(("now", "kept"), [("0.1.9", True), ("0.2.0", False), ("1.0", False)])
def test_a_release_in_which_numbers_may_change_is_told(
    now: str, kept: bool, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mmkd, "__version__", "0.1.3")
    shutil.rmtree(place.out)
    place.run()
    monkeypatch.setattr(mmkd, "__version__", now)
    if kept:
        place.run()
    else:
        with pytest.raises(ConfigError, match="runs of alone, mine are not"):
            place.run()
        assert f"mmkd was 0.1.3 and is {now}" in capsys.readouterr().err
    assert place.ran == set()


def cut_identity(folder: Path) -> None:
    (folder / "identity.json").write_text('{"settings": {')


def from_nowhere(folder: Path) -> None:
    (folder / "identity.json").unlink()


@pytest.mark.parametrize("change", [cut_identity, from_nowhere])
def test_an_unfinished_run_of_which_nothing_is_known_is_begun_anew(
    change: Callable[[Path], None], place: Place
) -> None:
    folder = place.out / "runs/mine/seed0"
    (folder / "result.json").unlink()
    change(folder)
    place.run()
    assert place.ran == {("mine", 0)}
    assert not (folder.with_name("seed0.1") / "result.json").exists()


def test_an_unfinished_run_goes_on_unless_its_settings_have_changed(place: Place) -> None:
    add_seed(place)
    place.fails["mine", 7] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        place.run()
    place.fails.clear()
    change_setting(place)
    with pytest.raises(ConfigError, match="runs of mine are not"):
        place.run()
    (place.folder / "mine.yaml").write_text("decentralized: {aggregation: {class_path: own_rule.Mine}}\n")
    place.run()
    assert place.ran == {("mine", 7)}
    assert not (place.out / "runs/mine/seed7.1").exists()


@pytest.mark.parametrize(
    "failure", [DivergedError("weights of 1e36"), ValueError("no memory"), ConfigError("no such label")]
)
def test_one_failure_costs_no_other_run_and_a_corrected_one_begins_anew(
    failure: Exception, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A divergence is an outcome, a refusal is a line, and of anything else the traceback is kept."""
    add_seed(place)
    place.fails["alone", 7] = failure
    assert place.run() == isinstance(failure, DivergedError)
    assert place.ran == {("mine", 7)}
    assert "mmkd: alone, seed 7 has no result: " in capsys.readouterr().out
    noted = json.loads((place.out / "runs/alone/seed7/failed.json").read_text())
    assert str(failure) in noted["reason"]
    assert ("Traceback" in noted.get("traceback", "")) == (type(failure) is ValueError)
    place.fails.clear()
    place.content["methods"]["alone"]["settings"]["model.clip"] = 0.1
    place.run("alone")
    assert place.ran == {("alone", 0), ("alone", 1), ("alone", 7)}
    assert (place.out / "runs/alone/seed7.1/failed.json").is_file()


def test_a_study_of_which_no_run_could_begin_is_refused_as_a_whole(place: Place) -> None:
    """In one line, and what has a result keeps it."""
    place.fails["alone", 7] = ConfigError("no such label")
    with pytest.raises(ConfigError, match=r"^alone, seed 7: no such label$"):
        place.run(only=["alone"], seeds=[7])
    assert (place.out / "runs/alone/seed0/result.json").is_file()


@pytest.mark.parametrize(
    "text", ["", '{"name": "tiny"', "[]", '{"name": "tiny", "seeds": ["x"], "methods": {}}']
)
def test_a_broken_page_costs_no_run(text: str, place: Place) -> None:
    marker = place.out / "study.json"
    marker.write_text(text)
    with pytest.raises(ConfigError, match=r"study.json cannot be read; remove it and run the same"):
        place.run()
    marker.unlink()
    place.run()
    assert place.ran == set()


def test_a_folder_is_written_by_one_study_at_a_time(place: Place) -> None:
    from mmkd.lock import holding

    with holding(place.out), pytest.raises(ConfigError, match="is in use by process"):
        place.run()


def test_only_methods_of_the_study_are_done_again(place: Place) -> None:
    with pytest.raises(ConfigError, match="no method mien; did you mean mine"):
        place.run("mien")


def test_what_is_no_longer_of_the_study_is_left_out_of_its_report(write: Callable[..., Path]) -> None:
    """A removed method, a run that was made of something else than ``study.json`` says, and an edited one."""
    out = write(["isolated", "ring", "fedavg"], seeds=(0, 1))
    edited = out / "runs/fedavg/seed0/result.json"
    growth.finish(edited.parent, json.loads(edited.read_text()))
    assert len(results.read(out).methods) == 3
    edited.write_text(edited.read_text().replace("61.5", "16.5"))
    page = json.loads((out / "study.json").read_text())
    made_of = Identity({"model.clip": 1.0}, {}, "0.1.0")
    for seed, clip in enumerate((1.0, 2.0)):
        begun = made_of._replace(settings={"model.clip": clip}).with_seed(seed)
        growth.begin(out / "runs" / "isolated" / f"seed{seed}", begun)
    page["methods"]["isolated"]["made_of"] = made_of._asdict()
    del page["methods"]["ring"]
    (out / "study.json").write_text(json.dumps(page))
    found = results.read(out)
    assert {method.name: [run.seed for run in method.runs] for method in found.methods} == {
        "isolated": [0],
        "fedavg": [1],
    }
    assert found.left_out == [
        "Isolated, seed 1: model.clip was 2.0 and is 1.0",
        "FedAvg within modality, seed 0: result.json was changed after the run",
        f"ring: the study no longer has this method; its runs are in {out / 'runs' / 'ring'}",
    ]


# --- identities ------------------------------------------------------------------------------------


def test_a_hash_of_content_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_what_changes_no_number_is_no_part_of_a_run() -> None:
    config = {"trainer": {"max_epochs": 3}, "recorder": {"folder": "a"}, "seed_everything": 3}
    more = {
        "trainer": {"max_epochs": 3, "logger": True, "enable_progress_bar": False},
        "recorder": {"folder": "b"},
    }
    assert identity(config).settings == identity(more).settings == {"trainer.max_epochs": 3}


def test_of_another_class_its_arguments_are_not_listed() -> None:
    old = Identity({"a.class_path": "x.A", "a.init_args.b": 1, "c": 1}, {"x.A": {"x": "1"}}, "0.1.0")
    new = Identity({"a.class_path": "x.B", "a.init_args.d": 2, "c": 1}, {"x.B": {"x": "1"}}, "0.1.0")
    assert differences(old, new) == ["a.class_path was x.A and is x.B"]
    assert differences(old, old) == []


def test_of_many_differences_some_are_told() -> None:
    old, new = (Identity({f"k{i}": value for i in range(9)}, {}, "0.1.0") for value in (1, 2))
    said = differences(old, new)
    assert said[0] == "k0 was 1 and is 2"
    assert said[-1] == "4 more differences"
    assert len(said) == 6
