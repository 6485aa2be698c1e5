"""Hubs that speak for clusters: each sends the targets that it made to the peers of its cluster."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch

from mmkd.coordination.delivery import Delivery
from mmkd.coordination.exchange import Exchange
from mmkd.coordination.targets import Targets
from mmkd.types import ConfigError, PeerName


def passed_on(
    targets: Targets,
    spoken_for: Mapping[str, list[PeerName]],
    hubs: Container[str],
    exchange: Exchange,
    delivery: Delivery,
    round: int,
    names: Sequence[PeerName],
) -> Targets:
    """Targets of peers from those of speakers: a hub that speaks for a cluster sends it its targets.

    Args:
        targets: of all speakers.
        spoken_for: peers by their speaker, in the order of the targets.
        hubs: speakers that are hubs.
        exchange: turns targets into the tensors that are sent, and back.
        delivery: carries them.
        round: of the messages.
        names: peers, in the order in which they are wanted.

    Raises:
        ConfigError: nothing arrives of what a hub says.
    """
    if all([speaker] == members for speaker, members in spoken_for.items()):
        return targets
    of_peer: dict[PeerName, Targets] = {}
    for i, (speaker, members) in enumerate(spoken_for.items()):
        here = slice(i, i + 1)
        own = {n: t._replace(values=t.values[here], weight=t.weight[here]) for n, t in targets.items()}
        if speaker in hubs:
            stack = exchange.answer_of(own, speaker)._replace(receivers=members)
            arrived = delivery.deliver(exchange.knowledge.kind, round, [stack])
            if not arrived:
                raise ConfigError(
                    f"the transport lost what '{speaker}' says to its cluster, which is in this process"
                )
            own = exchange.targets_of(arrived[0], own)
        of_peer |= dict.fromkeys(members, own)
    ordered = [of_peer[name] for name in names if name in of_peer]
    return {
        n: target._replace(
            values=torch.cat([own[n].values for own in ordered]),
            weight=torch.cat([own[n].weight for own in ordered]),
        )
        for n, target in targets.items()
    }
