"""Hubs that speak for clusters: each tells its members what it has heard."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch

from mmkd.coordination.delivery import Delivery
from mmkd.coordination.exchange import Exchange
from mmkd.coordination.targets import Targets
from mmkd.types import PeerName


def passed_on(
    targets: Targets,
    spoken_for: Mapping[str, list[PeerName]],
    hubs: Container[str],
    exchange: Exchange,
    delivery: Delivery,
    round: int,
    names: Sequence[PeerName],
) -> Targets:
    """From speakers to peers: those of a speaker who is no hub are its own.

    Args:
        targets: of all speakers.
        spoken_for: peers by who speaks for them, in the order of the targets.
        hubs: speakers who tell their members.
        exchange: says how targets are sent.
        delivery: carries them.
        round: of the messages.
        names: peers, in the order in which they are wanted.
    """
    if all([speaker] == members for speaker, members in spoken_for.items()):
        return targets
    told: dict[PeerName, Targets] = {}
    for i, (speaker, members) in enumerate(spoken_for.items()):
        here = slice(i, i + 1)
        own = {n: t._replace(values=t.values[here], weight=t.weight[here]) for n, t in targets.items()}
        if speaker in hubs:
            stack = exchange.answer_of(own, speaker)._replace(receivers=members)
            (arrived,) = delivery.deliver(exchange.knowledge.kind, round, [stack])
            own = exchange.targets_of(arrived, own)
        told |= dict.fromkeys(members, own)
    ordered = [told[name] for name in names if name in told]
    return {
        n: target._replace(
            values=torch.cat([own[n].values for own in ordered]),
            weight=torch.cat([own[n].weight for own in ordered]),
        )
        for n, target in targets.items()
    }
