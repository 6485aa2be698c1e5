"""A peer that trains beside others, one after the other, is the same student trained alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort
from tests.grids import each_once
from tests.tiny import CLASSES, TinyData, fit, fleets, schedule, trainer


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@each_once(clip=[None, 0.5], with_callback=[False, True])
def test_isolation_is_exact(clip: float | None, with_callback: bool) -> None:
    """Exchange off, a peer equals the same student trained alone, dropout and BatchNorm included."""
    cohort = Cohort(fleets(prior_correction=1.0), CLASSES, vectorize="never", clip=clip)
    alone = {name: copy.deepcopy(cohort.student(name)) for name in cohort.names}
    run = fit(
        cohort,
        DecentralizedCallback(schedule=schedule(local_steps=10)) if with_callback else None,
        max_epochs=1,
    )
    data = TinyData(batch_size=16, peers=cohort.roster[0])
    data.setup("fit")
    for name, student in alone.items():
        steps = run.global_step
        lone = trainer(max_epochs=-1, max_steps=steps, gradient_clip_val=clip)
        lone.fit(student, datamodule=data.only(name))
        assert equal(student.state_dict(), cohort.student(name).state_dict()), name
        assert int(student.net[1].num_batches_tracked) == steps


def test_adding_a_peer_changes_nobody_else() -> None:
    """Given the same private data: the microphones do not notice how many cameras there are."""
    states = []
    for eyes in (2, 3):
        cohort = Cohort(fleets(eyes=eyes), CLASSES, vectorize="never")
        fit(cohort, max_epochs=1)
        states.append({n: cohort.student(n).state_dict() for n in ("microphones/0", "microphones/1")})
    for name in states[0]:
        assert equal(states[0][name], states[1][name])
