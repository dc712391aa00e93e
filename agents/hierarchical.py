"""``hierarchical-ddpg``: goals for layers, bits for kernels, both learnt (AutoQ; Lou et al., ICLR 2020).

Notation

=====  ==========================================================================================
e      episode
g      goal of a layer: the mean bits of its kernels
eR     extrinsic reward, of the whole episode;  iR, intrinsic reward of a layer
ζ_e    share of eR in iR, rising over the episodes
=====  ==========================================================================================

The upper level sees layers and decides (g, activation bits); it earns eR, shared among the layers. The lower level sees
kernels and decides their bits; each kernel of a layer earns iR = −(1 − ζ)·|g − mean bits| + ζ·eR. Both are
:class:`qsearch.agents.haq.HaqDDPG`. Goals in the upper level's replay are relabelled (:mod:`qsearch.agents.relabel`).

The lower level does not look ahead (γ = 0): its reward says of every kernel what came of the layer, and the goal that is
left over is in what the next kernel sees. The sizes of the schedules of ζ are the paper's (0.1 to 0.8 [M]).

By default the lower level begins as a copy of reverse water-filling (:mod:`qsearch.agents.cloning`) and is held close to what
was executed by an anchor, so that it stays near one: without the anchor its critic, which sees each kernel in one or two
actions only, undid the copy within some ten episodes. ``start: scratch`` learns it from nothing, as AutoQ does.

``mode`` is AutoQ's: ``resource-constrained`` rewards accuracy alone, within the problem's bounds; ``accuracy-guaranteed``
rewards accuracy, latency and energy together and needs no bound. Without a mode, ``reward`` decides. 0 among the
weight bits lets a kernel be pruned.
"""

from __future__ import annotations

from qsearch.agents.checks import check
from qsearch.agents.levels import Agent, HierarchicalOptions
from qsearch.agents.randomness import Streams
from qsearch.agents.session import Episodes, Guarded, nothing_to_decide
from qsearch.errors import BudgetExhausted
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher


class HierarchicalDdpg(Searcher):
    """Two deep deterministic policy gradients: goals for layers, bits for kernels."""

    stochastic = True

    class Options(HierarchicalOptions):
        """Those of the two levels."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise :class:`qsearch.errors.UserError` unless what the options name is there."""
        check(self.options, problem)

    def search(self, oracle: Oracle) -> None:
        """Learn, episode by episode, until the budget is spent or nothing new is found."""
        if nothing_to_decide(oracle):
            return
        with Streams(oracle.seed) as streams:
            guarded = Guarded(oracle, streams)
            agent = Agent(guarded, self.options)
            episodes = Episodes(guarded, self.options.patience)
            try:
                while not episodes.over:
                    episodes.ended(agent.episode(episodes.count, episodes.idle))
            except BudgetExhausted:
                pass
            finally:
                agent.save()
