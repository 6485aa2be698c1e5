"""Names like one that is not there."""

from __future__ import annotations

import pytest

from mmkd.names import near


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
