"""Names like one that is not there, and those that no file can have."""

from __future__ import annotations

import pytest

from mmkd.names import near, no_file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny", "; did you mean vit_tiny_p16, vit_tiny_p16_384?"),  # too short to be spelt alike
        ("resnet18", "; did you mean resnet8?"),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_what_a_name_begins_comes_before_what_is_spelt_alike(name: str, said: str) -> None:
    assert near(name, ["vit_tiny_p16_384", "resnet8", "vit_tiny_p16", "bert"]) == said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../../escaped", "contains /"),
        ("a/b", "contains /"),
        ("/tmp/a", "contains /"),
        ("a\\b", "contains "),
        ("", "is empty or made of dots"),
        (".", "is empty or made of dots"),
        ("..", "is empty or made of dots"),
        (" ", "is empty or made of dots"),
        ("a\nb", "cannot be printed"),
        ("a\0", "cannot be printed"),
        ("\u202eab", "cannot be printed"),
        ("\u00e9" * 128, "is 256 bytes long"),
    ],
)
def test_a_name_that_leads_out_of_its_folder_or_into_none(name: str, why: str) -> None:
    assert why in (no_file(name) or "")


@pytest.mark.parametrize("name", ["fedavg", "mit Leerzeichen", "\u00e9" * 127, ".hidden", "a.b", "-x", "=x"])
def test_a_name_of_a_file(name: str) -> None:
    assert no_file(name) is None
