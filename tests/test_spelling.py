"""Misspelt keys are found without an import that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmkd.cli import MmkdCLI
from mmkd.spelling import RUNS, mistake

ROOT = Path(__file__).parents[1]


class Parsers(MmkdCLI):
    """Its parser, and nothing else."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise LookupError(parser)


def test_whatever_the_parser_takes_is_spelt_well() -> None:
    with pytest.raises(LookupError) as found:
        Parsers([])  # where no command is named, there are all
    commands = found.value.args[0]._subcommands_action._name_parser_map
    assert set(commands) == set(RUNS)
    for command, parser in commands.items():
        options = [option for action in parser._actions for option in action.option_strings]
        assert len(options) > 60
        for option in options:
            assert mistake([command, option]) is None, option
        for owner in ("trainer", "model", "decentralized", "recorder"):
            assert f"{owner} has no setting 'nonsense'" in str(mistake([command, f"--{owner}.nonsense=1"]))


def test_every_shipped_file_is_spelt_well() -> None:
    folders = ("data", "peers", "method", "trainer")
    files = [path for folder in folders for path in (ROOT / "configs" / folder).glob("*.yaml")]
    assert len(files) > 40
    assert mistake(["fit", *(f"--config={path}" for path in files)]) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modell: {}", "a run has no setting 'modell'; did you mean model?"),
        ("model: {peerz: {}}", "model has no setting 'peerz'; did you mean peers?"),
        ("model: {peers: {a: {cuont: 2}}}", "fleet 'a' has no setting 'cuont'; did you mean count?"),
        ("decentralized: {topologie: 1}", "did you mean topology?"),
        ("decentralized: {schedule: {local_step: 1}}", "did you mean local_steps"),
        ("trainer: {max_epoch: 1}", "did you mean max_epochs"),
        ("recorder: {foldr: here}", "did you mean folder?"),
        ("model: {peers: {a: {class_path: mine.Fleet, init_args: {size: 2}}}}", None),
        ("data: {class_path: a.B, init_args: {anything: 1}}", None),
        ("model: [", "this is no YAML: "),
        ("[1, 2]", "for it has no keys"),
        ("", None),
    ],
)
def test_keys_of_a_file(text: str, said: str | None, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    for given in (["-c", str(tmp_path / "run.yaml")], [f"--config={tmp_path / 'run.yaml'}"]):
        found = mistake(["fit", *given, "--trainer.callbacks+=Mine"])
        if said is None:
            assert found is None
        else:
            assert said in str(found)
            assert "run.yaml" in str(found)


def test_other_commands_and_files_that_are_not_there() -> None:
    assert mistake(["fitt"]) == "there is no command 'fitt'; did you mean fit?"
    assert mistake(["report", "folder"]) is None
    assert mistake(["fit", "-c", "nowhere.yaml"]) == "nowhere.yaml: there is no such file"
    assert mistake(["fit", "-c", "model: {clip: 1.0}"]) is None  # a configuration in the place of a file
    assert mistake(["fit", "-c"]) is None  # which the parser says in its own words


def test_a_misspelt_key_costs_no_torch() -> None:
    """In a process of its own, which would say what it has imported."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mmkd", "fit", "--model.peerz=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    lines = said.stderr.splitlines()
    assert said.returncode == 2
    assert [line for line in lines if line.startswith("mmkd: ")] == [
        "mmkd: --model.peerz: model has no setting 'peerz'; did you mean peers?"
    ]
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}
    assert "yaml" in imported
    assert not imported & {"torch", "numpy", "lightning", "jsonargparse"}
