"""Plants the mistakes of public implementations one at a time, and shows that a test catches each.

    python scripts/mutations.py [WORD]    # only those mistakes that contain the word

Copies the package to a temporary folder, so the tree is left alone. Takes about ten seconds a mutation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A mistake: in which file, what it replaces, and the tests (``-k``) of a suite that must fail."""

    mistake: str
    file: str
    right: str
    wrong: str
    tests: str
    suite: str = "tests/federated"


MUTATIONS = [
    Mutation(
        "SCAFFOLD's c divided by those who were here, not by all",
        "federated/scaffold.py",
        "mix(heard, round.p[rows][None])",
        "mix(heard, round.share)",
        "scaffold_with",
    ),
    Mutation(
        "SCAFFOLD's correction with the opposite sign",
        "federated/scaffold.py",
        'add_(g, round.scale(offset) if self.controls == "full" else offset)',
        'add_(g, round.scale(offset) if self.controls == "full" else offset, -1)',
        "scaffold",
    ),
    Mutation(
        "SCAFFOLD without its correction: a silent no-op",
        "federated/scaffold.py",
        'add_(g, round.scale(offset) if self.controls == "full" else offset)',
        "pass",
        "scaffold or matters",
    ),
    Mutation(
        "SCAFFOLD's mean gradient over the longest round, not the peer's own steps",
        "federated/scaffold.py",
        "1 / round.steps[rows]",
        "1 / round.steps.max().expand(len(rows))",
        "scaffold_rounds",
    ),
    Mutation(
        "corrections after the optimizer has stepped",
        "cohort/step.py",
        "                coordinator.correct(step, kept)\n",
        "                pass\n",
        "fedprox or scaffold_rounds",
    ),
    Mutation(
        "FedProx's distance not squared",
        "federated/fedprox.py",
        "leaf.add_(y[name] - x[name], alpha=mu)",
        "leaf.add_((y[name] - x[name]).sign(), alpha=mu)",
        "fedprox",
    ),
    Mutation(
        "FedProx pulls towards the current weights",
        "federated/fedprox.py",
        "y[name] - x[name]",
        "y[name] - y[name]",
        "fedprox",
    ),
    Mutation(
        "FedNova counts steps, whatever the optimizer makes of them",
        "functional/displacement.py",
        "return -float(y)",
        "return sum(rates)",
        "fednova_on",
    ),
    Mutation(
        "FedNova forgets tau_eff",
        "federated/fednova.py",
        "(round.share[0] * heard).sum() * round.share",
        "round.share",
        "fednova",
    ),
    Mutation(
        "FedLin without 1/tau",
        "federated/fedlin.py",
        "scale_rows_(g, 1 / round.steps[rows])",
        "pass",
        "fedlin",
    ),
    Mutation(
        "FedLin's hub forgets what it did not say",
        "federated/fedlin.py",
        'self.state["e"] = subtract(carried, g)',
        'self.state["e"] = zeros(mean, 1)',
        "fedlin",
    ),
    Mutation(
        "FedShuffle renormalised over those who were here",
        "federated/fedshuffle.py",
        "(round.p / round.q)[round.rows][None]",
        "round.share",
        "fedshuffle_does",
    ),
    Mutation(
        "FedShuffle's short batches count as much as whole ones",
        "federated/fedshuffle.py",
        "scale_rows_(g, round.portions())",
        "scale_rows_(g, 1 / round.steps[rows])",
        "fedshuffle_moves",
    ),
    Mutation(
        "FedAdam with bias correction",
        "federated/fedopt.py",
        "self.step(round) * m[name] /",
        "self.step(round) * m[name] / (1 - first) /",
        "adaptive",
    ),
    Mutation(
        "FedYogi's sign the other way round",
        "federated/fedopt.py",
        "(v - square).sign()",
        "(square - v).sign()",
        "adaptive",
    ),
    Mutation(
        "FedOpt's v begins at zero",
        "federated/fedopt.py",
        "leaf + self.tau**2",
        "leaf",
        "adaptive",
    ),
    Mutation(
        "MIME corrects on another point than x",
        "federated/mime.py",
        'round.shift(state["known c"], state["x"])',
        'round.shift(state["known c"], round.weights())',
        "mime or corrected",
    ),
    Mutation(
        "MIME's statistics see the local gradients' square",
        "federated/mime.py",
        'leaf.div_(state["v"][name].sqrt()',
        "leaf.div_(leaf.abs()",
        "mime",
    ),
    Mutation(
        "MIME's momentum as torch's, not a moving average",
        "federated/mime.py",
        "leaf.mul_(1 - first)",
        "leaf",
        "mime",
    ),
    Mutation(
        "uniform weights where the samples count",
        "federated/base.py",
        'if self.weights == "uniform" else',
        "if True else",
        "fedavg_one or fednova",
    ),
    Mutation(
        "gossip that weighs every neighbour alike",
        "functional/mixing.py",
        "    return Mixing(place, torch.where(own, 1 - share.sum(1, keepdim=True), share))",
        "    return push_mixing(graph)",
        "gossip",
    ),
    Mutation(
        "gradient tracking without the gradient's change",
        "federated/gossip.py",
        "[name] + leaf - before[name]",
        "[name] * 0 + leaf",
        "tracking",
    ),
    Mutation(
        "push-sum without its mass",
        "federated/gossip.py",
        "scale_rows_(z, 1 / mass.flatten())",
        "pass",
        "push_sum",
    ),
    Mutation(
        "error feedback forgotten",
        "federated/base.py",
        "put(kept, round.rows, subtract(carried, heard))",
        "pass",
        "telescopes",
    ),
    Mutation(
        "the optimizer's state survives the average though it should not",
        "coordination/federation.py",
        'optimizer_state == "reset"',
        'optimizer_state == "never"',
        "adam",
    ),
    Mutation(
        "error feedback on top of SCAFFOLD's c_i, which remember by themselves",
        "federated/scaffold.py",
        'round.send("controls", change, self.compression)',
        'self.say("controls", change, round, self.compression)',
        "compressed_changes",
    ),
    Mutation(
        "a hub that answers compressed and forgets what it left out",
        "federated/fedavg.py",
        'self.state.get("hub", x)',
        "x",
        "says_later_what_it",
    ),
    Mutation(
        "corrections once for every part of an accumulated batch",
        "cohort/step.py",
        "        if coordinator is not None and needs.correct:\n",
        "        for _ in range(self.accumulate if coordinator is not None and needs.correct else 0):\n",
        "in_parts",
    ),
    Mutation(
        "gradients clipped before they are corrected",
        "cohort/step.py",
        """        if coordinator is not None and needs.correct:
            with self.timed("exchange"):
                coordinator.correct(step, kept)
        if self.clip is not None:
            for group, active in zip(self.groups, rows, strict=True):
                if active:
                    group.clip(active, self.clip)
""",
        """        if self.clip is not None:
            for group, active in zip(self.groups, rows, strict=True):
                if active:
                    group.clip(active, self.clip)
        if coordinator is not None and needs.correct:
            coordinator.correct(step, kept)
""",
        "clipped",
    ),
    Mutation(
        "corrections of private gradients at full weight beside knowledge",
        "coordination/federation.py",
        "        if not self._kept:\n",
        "        if True:\n",
        "count_as_much",
    ),
    Mutation(
        "the longest round of the schedule taken for this round's work",
        "coordination/federation.py",
        "float(w.steps(round_))",
        "float(w.most * w.unit)",
        "drawn",
    ),
    Mutation(
        "contraction by the second largest eigenvalue, whatever the least is",
        "functional/mixing.py",
        "eigenvalues[:-1].abs().max()",
        "eigenvalues[-2]",
        "contraction",
        "tests/functional",
    ),
    Mutation(
        "Hsu's concentration for each class, not shared out by the classes' frequencies",
        "functional/partition.py",
        "alpha * counts.double() / len(labels)",
        "alpha * torch.ones(len(counts), dtype=torch.float64)",
        "hsu",
        "tests/functional",
    ),
    Mutation(
        "a student as sure as all it hears is taught nonetheless",
        "knowledge/multi_head.py",
        "surest(said, own, self.confidence) >= surest(said, hears, self.confidence)",
        "surest(said, own, self.confidence) > surest(said, hears, self.confidence)",
        "sure",
        "tests/knowledge/test_multi_head.py",
    ),
    Mutation(
        "gradients of scaled losses corrected and clipped as they are",
        "cohort/step.py",
        "            self.unscale()\n            step = self._without_overflow(step, rows)\n",
        "            pass\n",
        "half_precision",
        "tests/cohort/test_scaling.py",
    ),
    Mutation(
        "every row's parameter group holds the same stacks, which a scaler divides once a row",
        "cohort/groups/row_optimizer.py",
        '                group["params"] = []\n',
        "                pass\n",
        "each_parameter_once",
        "tests/cohort/groups/test_row_optimizer.py",
    ),
    Mutation(
        "rows stepped together whose parameters have taken unequally many steps",
        "cohort/groups/row_optimizer.py",
        "kinds.setdefault((self.steps[row], self._fixed[row]), [])",
        "kinds.setdefault((self.steps[rows[0]], self._fixed[row]), [])",
        "rows_rest",
        "tests/cohort/groups/test_row_optimizer.py",
    ),
    Mutation(
        "a learning-rate scale that a schedule takes for its own rate",
        "cohort/groups/local_optimizer.py",
        '                group["lr"] = rate\n',
        "                pass\n",
        "multiplies",
        "tests/cohort/groups/test_local_optimizer.py",
    ),
    Mutation(
        "checkpoints that keep rates of a schedule and not its momentum",
        "cohort/groups/local_optimizer.py",
        "            group.update(settings)\n",
        '            group["lr"] = settings["lr"]\n',
        "multiplies",
        "tests/cohort/groups/test_local_optimizer.py",
    ),
    Mutation(
        "a tied matrix sent under each of its names",
        "cohort/groups/base.py",
        "            names.setdefault(tensor, name)\n",
        "            names[tensor.clone()] = name\n",
        "tied",
        "tests/cohort/test_freezing.py",
    ),
    Mutation(
        "the weights of a round's beginning taken from a peer in another process, of which nothing is known",
        "coordination/members.py",
        "        if self.whole:\n            return x\n        if not known",
        "        if True:\n            return x\n        if not known",
        "two_processes and SCAFFOLD",
        "tests/coordination",
    ),
    Mutation(
        "old updates of FedBuff counted like new ones",
        "federated/fedbuff.py",
        "share = there * (1 + age) ** -self.staleness",
        "share = there",
        "counts_less",
    ),
    Mutation(
        "a FedBuff that divides by K and not by the updates that have come",
        "federated/fedbuff.py",
        "scale_rows_(step, 1 / held.flatten())",
        "scale_rows_(step, 1 / (0 * held.flatten() + self.buffer))",
        "fedbuff_moves",
    ),
    Mutation(
        "what somebody said about other samples heard once more",
        "transport/zenoh.py",
        " and last[0].slip.about == mail.about",
        "",
        "silent_one",
        "tests/transport",
    ),
    Mutation(
        "what a silent process has said heard for ever",
        "transport/zenoh.py",
        "mail.round - heard <= self._stale and",
        "",
        "silent_one",
        "tests/transport",
    ),
    Mutation(
        "statements about other samples taken for those about one's own",
        "transport/zenoh.py",
        "if self._fits(process, own, mail)}",
        "}",
        "other_samples",
        "tests/transport",
    ),
    Mutation(
        "an older letter that replaces a newer one",
        "transport/newest.py",
        '        if round < coming.round:\n            return "late"\n',
        "",
        "newest",
        "tests/transport",
    ),
    Mutation(
        "public samples drawn with a look at their labels",
        "data/catalogued.py",
        "unread = torch.zeros_like(free)",
        "unread = catalogue.y[free]",
        "look_at_labels",
        "tests/data",
    ),
    Mutation(
        "samples with an owner drawn to be public",
        "data/catalogued.py",
        "free = ((part == _TRAIN) & ~torch.tensor(owned)).nonzero()[:, 0]",
        "free = (part == _TRAIN).nonzero()[:, 0]",
        "owners_own",
        "tests/data",
    ),
    Mutation(
        "a tokenizer trained on private texts, too",
        "data/texts.py",
        "for row in self._public().tolist()]",
        "for row in range(len(self._texts))]",
        "public_texts_alone",
        "tests/data",
    ),
    Mutation(
        "statements about public samples that were changed",
        "coordination/lessons.py",
        "self._exchanged(step, [] if step.learned else learning, public)",
        "self._exchanged(step, learning, public)",
        "what_is_said",
        "tests/augmentation",
    ),
    Mutation(
        "a row marked as decoded before it is",
        "data/decoded.py",
        "self._seen[rows] != self._stamps[rows]",
        "self._seen[rows] == 0",
        "changed_file",
        "tests/data",
    ),
    Mutation(
        "answers of a hub in another process that are ignored",
        "coordination/cluster_mail.py",
        "dict(arrived[0].tensors) if arrived else None",
        "None",
        "two_processes and FedAvg",
        "tests/coordination",
    ),
    Mutation(
        "SCAFFOLD's c computed in a process that has not heard what the hub has",
        "federated/scaffold.py",
        'round.heard("controls", state["c"])',
        'state["c"]',
        "two_processes and SCAFFOLD",
        "tests/coordination",
    ),
    Mutation(
        "listeners that hear what the first of all peers hear",
        "coordination/exchange.py",
        "graph.rows(listeners[start:stop])",
        "graph.dense(start, start + len(listeners[start:stop]))",
        "two_processes and logits",
        "tests/coordination",
    ),
    Mutation(
        "peers in other processes that are forgotten when those who step are counted",
        "coordination/lessons.py",
        "if peers.whole else [timetable.active(step.tick)]",
        "",
        "two_processes and logits",
        "tests/coordination",
    ),
    Mutation(
        "a hub that answers a row to each, and listeners elsewhere who all take the first",
        "coordination/targets.py",
        "row_of = {stack.receivers[place]: row",
        "row_of = {stack.receivers[place]: 0",
        "two_processes and own",
        "tests/coordination",
    ),
    Mutation(
        "weights of another shape or type that are taken from another process",
        "coordination/expected.py",
        "        check_forms(tensors, self._forms(payload.sender, receivers))\n",
        "",
        "nobody_goes_on",
        "tests/coordination",
    ),
    Mutation(
        "messages of another round that are taken",
        "coordination/arrivals.py",
        "payload.round != round_",
        "payload.round < round_",
        "does_not_silence",
        "tests/coordination",
    ),
    Mutation(
        "a peer whose message was refused, averaged as zeros",
        "coordination/federation.py",
        "left = p.masked_fill(self._gone(), 0.0)",
        "left = p",
        "weighed_nothing",
        "tests/coordination",
    ),
    Mutation(
        "weights that are averaged before anybody has looked at them",
        "coordination/coordinator.py",
        "if shares or self.federations:",
        "if shares:",
        "nobody_else",
        "tests/cohort/test_divergence.py",
    ),
    Mutation(
        "a running norm that follows whatever it sees",
        "cohort/divergence.py",
        "min(norm, 2 * running)",
        "norm",
        "leap",
        "tests/cohort/test_divergence.py",
    ),
    Mutation(
        "a peer that has diverged within a round and is averaged at its end all the same",
        "coordination/federation.py",
        "< len(self.rows):",
        "< 0:",
        "absent_to_all",
        "tests/cohort/test_divergence.py",
    ),
    Mutation(
        "edge: a frozen encoder that trains its dropout and statistics",
        "students/adapting.py",
        "encoder.requires_grad_(False).eval()",
        "encoder.requires_grad_(False)",
        "",
        "tests/students/test_adapting.py",
    ),
    Mutation(
        "edge: a frozen encoder that wakes up with the student",
        "students/adapting.py",
        "return (name,)",
        "return ()",
        "",
        "tests/students/test_adapting.py",
    ),
    Mutation(
        "edge: statistics of frozen layers are exchanged",
        "cohort/groups/base.py",
        "module.still if isinstance(module, Student) else ()",
        "()",
        "",
        "tests/students/test_adapting.py",
    ),
    Mutation(
        "edge: A is trained where B alone is to be",
        "students/adapting.py",
        "if lora.only_b and",
        "if False and",
        "",
        "tests/students/test_adapting.py",
    ),
    Mutation(
        "edge: a constant channel is divided by nothing",
        "students/normalising.py",
        "torch.where(deviation > 1e-7, deviation, 1.0)",
        "deviation",
        "",
        "tests/students/test_normalising.py",
    ),
    Mutation(
        "edge: a deviation about the mean of the first batch",
        "students/normalising.py",
        "(squares / count - (total / count).square())",
        "(squares / count)",
        "",
        "tests/students/test_normalising.py",
    ),
    Mutation(
        "edge: a peer's own statistics are averaged with the weights",
        "students/normalising.py",
        'self.personal = self.personal | {"normalise.mean", "normalise.std"}',
        "pass",
        "",
        "tests/students/test_normalising.py",
    ),
    Mutation(
        "edge: statistics of views that are missing",
        "students/fusion.py",
        "lambda t, shown=shown: t[shown]",
        "lambda t: t",
        "",
        "tests/students/test_normalising.py",
    ),
    Mutation(
        "edge: of those that are wanted alike the first comes first",
        "functional/offloading.py",
        "(sums / count)[alike].cumsum(0)",
        "values.cumsum(0)",
        "",
        "tests/functional/test_offloading.py",
    ),
    Mutation(
        "edge: the nearer sample counts less",
        "functional/offloading.py",
        "* (1 - part) + float(self.won[place]) * part",
        "* part + float(self.won[place]) * (1 - part)",
        "",
        "tests/functional/test_offloading.py",
    ),
    Mutation(
        "edge: a temperature where all are right is anywhere",
        "functional/calibration.py",
        "torch.where(slope <= 0, middle, low), torch.where(slope <= 0, high, middle)",
        "torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)",
        "temperature",
        "tests/functional/test_calibration.py",
    ),
    Mutation(
        "edge: a file that says something else is kept",
        "edge/exporting.py",
        "not worst <= PARITY",
        "worst > 1",
        "something_else",
        "tests/edge/test_export.py",
    ),
    Mutation(
        "edge: probabilities without their temperature",
        "edge/graph.py",
        "(found.logits / self.temperature).softmax(-1)",
        "found.logits.softmax(-1)",
        "",
        "tests/edge/test_export.py",
    ),
    Mutation(
        "edge: a view that is missing counts as there",
        "edge/predict.py",
        "np.array([there])",
        "np.array([True])",
        "",
        "tests/edge/test_export.py",
    ),
    Mutation(
        "edge: another window of the resampling",
        "edge/predict.py",
        "* np.pi / width / 2) ** 2",
        "* np.pi / width / 2)",
        "",
        "tests/edge/test_predict.py",
    ),
    Mutation(
        "edge: an answer of another peer, or to another question, is taken",
        "edge/questions.py",
        '(found.sender, found.kind, found.round) != (peer, "answer", number)',
        'found.kind != "answer"',
        "garbage",
        "tests/edge/test_serving.py",
    ),
    Mutation(
        "edge: what nobody waits for is computed",
        "edge/serving.py",
        "if now - waiting.since < waiting.asked.patience:",
        "if True:",
        "slow",
        "tests/edge/test_serving.py",
    ),
    Mutation(
        "edge: answers of several are added up",
        "edge/asking.py",
        "torch.stack([*others.values()]).mean(0)",
        "torch.stack([*others.values()]).sum(0)",
        "unsure",
        "tests/edge/test_serving.py",
    ),
    Mutation(
        "edge: deferral that forgets what asking spoils",
        "edge/policies.py",
        "self._mends(seen) - self._spoils(seen)",
        "self._mends(seen)",
        "",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: several answers for the price of one",
        "edge/requests.py",
        "back = len(peers.remote) * ",
        "back = ",
        "",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: a threshold at which one level too many is asked about",
        "functional/offloading.py",
        "levels[len(levels) - 1 - kept]",
        "levels[len(levels) - 1 - kept] - 1e-9",
        "budget",
        "tests/functional/test_offloading.py",
    ),
    Mutation(
        "edge: a budget of nothing lets the surest doubts through",
        "functional/offloading.py",
        "    if budget == 0:\n        return inf\n",
        "",
        "budget",
        "tests/functional/test_offloading.py",
    ),
    Mutation(
        "edge: a threshold of a device by everybody's samples",
        "edge/budgets.py",
        "_threshold(_of(val, number), given.amount)",
        "_threshold(val, given.amount)",
        "",
        "tests/edge/test_budgets.py",
    ),
    Mutation(
        "edge: a price that forgets what a device pays",
        "edge/budgets.py",
        "price * cost for cost in costs",
        "price for cost in costs",
        "",
        "tests/edge/test_budgets.py",
    ),
    Mutation(
        "edge: an answer comes at the speed of the question",
        "edge/links.py",
        "received / self.down",
        "received / self.up",
        "",
        "tests/edge/test_budgets.py",
    ),
    Mutation(
        "edge: who is asked answers about samples of its own",
        "edge/requests.py",
        "r: said[r, device if _reads(peers, r, device) else r]",
        "r: said[r, r]",
        "",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: asking takes no longer than the link",
        "edge/requests.py",
        " + max(peers.took[r] for r in peers.remote)",
        "",
        "",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: a service that is told to end does not say what it did",
        "edge/serving.py",
        "    with suppress(asyncio.CancelledError):\n        await task",
        "    await task",
        "told",
        "tests/edge/test_commands.py",
    ),
    Mutation(
        "edge: a missing package by the name of its module",
        "edge/predict.py",
        "MODULES.get(str(error.name), str(error.name))",
        "str(error.name)",
        "",
        "tests/edge/test_predict.py",
    ),
    Mutation(
        "edge: samples of double precision stay so",
        "edge/validating.py",
        "t.float() if t.is_floating_point() else t",
        "t",
        "double",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: errors of a frame without those that it misses",
        "evaluation/precision.py",
        "(y[..., 4] >= 0).sum(1) + sure[0].sum(1) - 2 * _found",
        "sure[0].sum(1) - _found",
        "errors",
        "tests/evaluation/test_average_precision.py",
    ),
    Mutation(
        "edge: what does not count is no error that is expected",
        "functional/detection/doubt.py",
        "scores.minimum(1 - scores)",
        "(1 - scores) * (scores >= 0.5)",
        "",
        "tests/functional/detection/test_doubt.py",
    ),
    Mutation(
        "edge: the main head answers, whichever was judged",
        "edge/trained.py",
        "student.aux[number - 1]",
        "student.main",
        "head",
        "tests/edge/test_offload.py",
    ),
    Mutation(
        "edge: boxes of other classes suppress one another in a graph",
        "edge/suppression.py",
        "op.Mul(beyond, 2.0)",
        "op.Mul(beyond, 0.0)",
        "suppression",
        "tests/edge/test_export.py",
    ),
    Mutation(
        "cache: what is exactly as old as it may be is said",
        "coordination/held.py",
        "tick - at <= self.cache.stale",
        "tick - at < self.cache.stale",
        "greatest_change",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: who comes back is not told what it missed",
        "coordination/held.py",
        "(wants & (~found | lacking)) | changed",
        "(wants & ~found) | changed",
        "comes_back",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: all who hear now are taken to have heard then",
        "coordination/held.py",
        "lacking &= (at != then) | known[id(heard)][:, None]",
        "lacking &= at != then",
        "plain_model",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: a change of exactly the bound is said",
        "coordination/held.py",
        "(change > self.cache.change)",
        "(change >= self.cache.change)",
        "greatest_change",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: what changed least is said first",
        "coordination/held.py",
        "kept(change, changed,",
        "kept(-change, changed,",
        "changed_most",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: who stands for itself only stands for later ones",
        "functional/alike.py",
        "close[:, i] & left & left[:, place, None]",
        "close[:, i] & left",
        "handed_on",
        "tests/functional/test_alike.py",
    ),
    Mutation(
        "cache: what shares a row is kept as it would have been",
        "coordination/held.py",
        "tensors={n: t[rows, alike] for n, t in stack.tensors.items()}, alike=alike",
        "tensors=dict(stack.tensors), alike=alike",
        "nearly_alike",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: rows are shared whatever a hub weighs",
        "coordination/held.py",
        "*((t, False) for t in weights)",
        "*((t, False) for t in weights[:0])",
        "weights_of_answers",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "messages: numbers of rows in any order are taken",
        "coordination/expected.py",
        "bool((row > before + 1).any())",
        "False",
        "numbers_name",
        "tests/coordination/test_arrivals.py",
    ),
    Mutation(
        "detectors: layers behind the last map stay",
        "students/detectors/pyramid.py",
        "if own and dead.issuperset(own):",
        "if False and dead.issuperset(own):",
        "all_that_is_kept",
        "tests/students/detectors/test_pyramid.py",
    ),
    Mutation(
        "cache: rows that are shared are counted as if each were sent",
        "coordination/held.py",
        "(says, stack.alike)",
        "(says, None)",
        "nearly_alike",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: an answer to one listener stands for that to another",
        "coordination/heard.py",
        "    if not personal:\n",
        "    if True:\n",
        "costs_a_bit",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: what is worth most goes",
        "caching/eviction.py",
        "descending=True",
        "descending=False",
        "goes",
        "tests/coordination/test_held.py",
    ),
    Mutation(
        "cache: a disk reads whatever lies under a key",
        "caching/disk.py",
        " or _mark(key, body) != mark",
        "",
        "written_over",
        "tests/caching/test_stores.py",
    ),
    Mutation(
        "cache: answers are remembered for ever",
        "edge/remembering.py",
        "now - when > self.seconds",
        "now - when > 2 * self.seconds",
        "nearest",
        "tests/edge/test_remembering.py",
    ),
    Mutation(
        "edge: singular values are given to one factor twice",
        "functional/low_rank.py",
        "root[:, None] * right[:rank]",
        "values[:rank, None] * right[:rank]",
        "",
        "tests/functional/test_low_rank.py",
    ),
    Mutation(
        "edge: energy is a share of singular values and not of their squares",
        "functional/low_rank.py",
        "values.double().square()",
        "values.double()",
        "",
        "tests/functional/test_low_rank.py",
    ),
    Mutation(
        "edge: channels of what a student says are pruned, too",
        "edge/compression/pruned.py",
        "ignored_layers=heads",
        "ignored_layers=[]",
        "",
        "tests/edge/compression/test_steps.py",
    ),
    Mutation(
        "edge: groups are left with one channel",
        "edge/compression/pruned.py",
        "LEAST * m.num_groups",
        "m.num_groups",
        "",
        "tests/edge/compression/test_steps.py",
    ),
    Mutation(
        "edge: zeros learn again",
        "edge/compression/sparse.py",
        "torch.where(there, gradient, 0)",
        "gradient",
        "zeros",
        "tests/edge/compression/test_steps.py",
    ),
    Mutation(
        "edge: a factored layer loses its stride",
        "edge/compression/factored.py",
        "layer.kernel_size, layer.stride,",
        "layer.kernel_size, 1,",
        "full_rank",
        "tests/edge/compression/test_steps.py",
    ),
    Mutation(
        "edge: weights are trained for 8 bits where the file has 7",
        "edge/compression/quantised.py",
        "rounded(kind, -64, scheme, 64,",
        "rounded(kind, -127, scheme, 127,",
        "rounds",
        "tests/edge/compression/test_quantised.py",
    ),
    Mutation(
        "edge: the range of weights as they have been",
        "edge/compression/quantised.py",
        "averaging_constant=1.0",
        "averaging_constant=0.01",
        "learn_through",
        "tests/edge/compression/test_quantised.py",
    ),
    Mutation(
        "edge: a student is its own neighbour",
        "edge/compression/lessons.py",
        "others = [name for name in students if name != peer]",
        "others = [*students]",
        "hand",
        "tests/edge/compression/test_recipe.py",
    ),
    Mutation(
        "edge: neighbours see public samples as the listener does",
        "edge/compression/lessons.py",
        "view, there = view_of(public, data.peers[name])",
        "view, there = view_of(public, data.peers[peer])",
        "hand",
        "tests/edge/compression/test_recipe.py",
    ),
    Mutation(
        "edge: what was heard is not learned",
        "edge/compression/healing.py",
        "loss = (1 - LESSON) * loss + LESSON * self._lesson(",
        "loss = loss + 0 * self._lesson(",
        "told",
        "tests/edge/compression/test_recipe.py",
    ),
    Mutation(
        "edge: the run's own student is compressed",
        "edge/trained.py",
        "copy.deepcopy(self.cohort.student(peer))",
        "self.cohort.student(peer)",
        "again",
        "tests/edge/compression/test_recipe.py",
    ),
    Mutation(
        "edge: a normalisation keeps its number of channels",
        "edge/compression/saved.py",
        "module.num_channels = len(module.weight)",
        "pass",
        "made_again",
        "tests/edge/compression/test_steps.py",
    ),
]


def caught(mutation: Mutation, folder: Path) -> bool:
    """Whether a test fails with the mistake planted."""
    file = folder / "mmkd" / mutation.file
    text = file.read_text()
    if text.count(mutation.right) == 0:
        raise SystemExit(f"'{mutation.right}' is not in {mutation.file}: the mutation must follow the code")
    file.write_text(text.replace(mutation.right, mutation.wrong))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not long"]
    command.append(mutation.suite)
    if mutation.tests:
        command += ["-k", mutation.tests]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    file.write_text(text)
    if run.returncode not in (0, 1):
        raise SystemExit(
            f"pytest could not run for '{mutation.mistake}': {run.stdout[-500:]}{run.stderr[-500:]}"
        )
    return run.returncode == 1


def main() -> int:
    """Print a line a mutation; how many survive is the exit status."""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("mmkd", "tests", "datamodules"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / file, folder / file)
        chosen = [mutation for mutation in MUTATIONS if "".join(sys.argv[1:2]) in mutation.mistake]
        for mutation in chosen:
            found = caught(mutation, folder)
            survivors += not found
            print(f"{'caught  ' if found else 'SURVIVED'}  {mutation.mistake}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return survivors


if __name__ == "__main__":
    raise SystemExit(main())
