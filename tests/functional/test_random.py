"""Keyed streams: what they depend on, and SplitMix64 against its published first numbers."""

from __future__ import annotations

import torch

from mmkd.functional.random import generator, key, key_of_step, key_of_text, scores_of_step, text_of


def test_splitmix64_from_zero() -> None:
    """The first outputs of the reference implementation for state 0, less their lowest bit."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [key_of_step(0, step) for step in range(3)] == [number >> 1 for number in published]


def test_steps_of_many_streams_never_meet() -> None:
    seeds = {key_of_step(key(0, f"p/{peer}"), step) for peer in range(200) for step in range(200)}
    assert len(seeds) == 200 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_parts_are_told_apart() -> None:
    assert len({key(1, "a"), key("1", "a"), key("1a"), key(1, "a", 0), key("a", 1)}) == 5
    first, again = (torch.rand(3, generator=generator(0, "x", 7)) for _ in range(2))
    assert torch.equal(first, again)


def test_a_text_may_be_kept() -> None:
    """Of an initial and of a final part, with what lies between them."""
    assert (
        key_of_text(text_of(3), text_of("a", "b", 4))
        == key(3, "a", "b", 4)
        == key_of_text(text_of(3, "a", "b", 4))
    )


def test_many_streams_at_once() -> None:
    streams = [key("stream", i) for i in range(50)]
    for step in (0, 1, 7, 2**40):
        assert scores_of_step(torch.tensor(streams), step).tolist() == [key_of_step(s, step) for s in streams]
