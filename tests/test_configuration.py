"""YAML that says a thing twice, contains itself or explodes is refused with file and line, and at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mmkd.__main__ import main
from mmkd.configuration import DEEPEST, MOST_ENTRIES, check_yaml, read_yaml, text_of
from mmkd.topology import EdgeList
from mmkd.types import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
"""Ten to the thirtieth entries in a kilobyte; line 6 is the first with more than a million."""
assert MOST_ENTRIES <= 10**6
WRONG = {
    b"model:\n  clip: 1\n  clip: 2\n": "line 3: 'clip' is there twice; remove one of the two",
    b"a: 1\nb: {c: 1, d: {c: 1}, c: [2]}\n": "line 2: 'c' is there twice",
    b"a: 1\n'a': 2\n": "line 2: 'a' is there twice",
    b"&k a: 1\na: 2\n": "line 2: 'a' is there twice",
    b"model: &a\n  peers: *a\n": "line 2: *a stands within what it stands for",
    b"model: &a [1, [2, *a]]\n": "line 1: *a stands within what it stands for",
    BOMB.encode(): "line 6: aliases make more than 1,000,000 entries of this",
    b"model:\n  clip: 1 # caf\xe9\n": "line 2: this is no UTF-8",
    "model: 1\n".encode("utf-16"): "line 1: this is no UTF-8",
    b"model: " + b"[" * (DEEPEST + 1): "line 1: lists and dictionaries are more than 100 deep",
    b"model: [1,\n 2": "this is no YAML: while parsing a flow sequence, did not find expected",
    b"model: {clip: " + b"1" * 5000 + b"}\n": "this is no YAML: Exceeds the limit",
    b"model: 2020-99-99\n": "this is no YAML: month must be in 1..12",
    b"model: 1\n---\nmodel: 2\n": "line 2: this is no YAML",
    b"model: !!python/object:os.system {}\n": "line 1: this is no YAML: could not determine a constructor",
}  # fmt: skip


@pytest.mark.parametrize("content", WRONG, ids=lambda content: WRONG[content])
def test_refused_with_file_and_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    assert time.monotonic() - began < 5
    assert str(caught.value).startswith(str(file))
    assert WRONG[content] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_right_is_read_as_it_is(tmp_path: Path) -> None:
    """A key may be there again in another dictionary, and an alias may be used again."""
    file = tmp_path / "right.yaml"
    file.write_text("a: &x {k: 1}\nb: {k: [*x, *x]}\nc: [{k: 1}, {k: 2}, k, k]\nk: é\n")
    x = {"k": 1}
    assert read_yaml(file) == {
        "a": x,
        "b": {"k": [x, x]},
        "c": [x, {"k": 2}, "k", "k"],
        "k": "é",
    }
    check_yaml("", "nothing")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*none': No such file"):
        text_of(tmp_path / "none")


def test_other_files_of_a_user_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"
    file.write_bytes(b"a b\nb caf\xe9\n")
    with pytest.raises(ConfigError, match=r"graph\.txt, line 2: this is no UTF-8"):
        EdgeList(str(file)).check(["a", "b"])


@pytest.mark.parametrize("content", [next(iter(WRONG)), b"", b"- 1\n"], ids=["twice", "empty", "list"])
def test_the_command_says_it_in_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_bytes(content)
    for words in (["fit", f"--config={file}"], ["tradeoff", str(file), "--out=x"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mmkd: {file}")
        assert said.count("\n") == 1


def test_nothing_is_said_twice_in_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.peers={a: 1, a: 2}"]) == 2
    assert "the command line, line 1: 'a' is there twice" in capsys.readouterr().err
