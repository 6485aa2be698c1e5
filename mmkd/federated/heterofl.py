"""HeteroFL (Diao et al. 2021): students of one class and different widths average slices of their weights."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mmkd.federated.base import Aggregation, counted_once
from mmkd.federated.round import Round, Setting
from mmkd.functional.slices import slice_average
from mmkd.functional.trees import Tree
from mmkd.types import ConfigError


class HeteroFL(Aggregation):
    """x[e] <- sum_k p_k y_k[e] over the peers k that took part and hold element e, p renormalised over them.

    Each parameter of a narrower student is the leading slice, along every dimension, of the widest's
    (section 3 of the paper, with weights p). The hub has the widest weights and tells each peer its own
    slice; what nobody who took part holds stays as it is. Normalisation statistics go the same way. Peers
    keep their widths, and send and hear their own tensors alone. Where all are equally wide it is FedAvg.

    Everybody begins with a slice of the widest student's draw, whatever its own draw was. Like all initial
    weights of ``model.init: shared``, they follow from the seed, so nothing is sent for that.

    Parts of the paper that are no rule of averaging are left out:

    - the scaler (outputs of a layer over the width's ratio, while training) and masked cross-entropy (only
      over the classes that a peer owns) change the student and its private loss, which are the same for
      all methods of a study. Normalisation after a layer, where a student has it, removes a scale
      again, and ``prior_correction`` has the purpose of the mask;
    - static batch normalisation (no running statistics while training, then one pass over everybody's
      samples) needs an exchange of its own. Group normalisation, which students have unless told
      otherwise, has no statistics; for others there is ``buffers``.

    There is no compression: it would count the zeros beyond a slice among a peer's weights.
    """

    slices: ClassVar[bool] = True

    @property
    def agrees(self) -> bool:
        """Always true: all peers begin with slices of one x."""
        return True

    def check(self, setting: Setting) -> None:
        """Refuse settings without a hub: no peer need have the widest weights."""
        if not setting.hub:
            raise ConfigError("HeteroFL needs a hub that has the widest weights: choose topology Star")
        super().check(setting)
        counted_once(setting)

    def finish(self, y: Tree, round: Round) -> Tree:
        """The mean of each element over those who took part and hold it."""
        return self.average(y, round)

    def average(self, statistics: Tree, round: Round) -> dict[str, Float[Tensor, "1 ..."]]:
        """Statistics, averaged as weights are: each element over those who hold it."""
        shapes = [round.shapes[row] for row in round.rows.tolist()]
        heard = round.send(self.kind, statistics)
        return round.answer(self.kind, slice_average(heard, shapes, round.counted, round.hub))
