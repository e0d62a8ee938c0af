"""The best settings without networks, which learned policies are compared with."""

from __future__ import annotations

from dataclasses import replace

from ltd.latency.model import LatencyModel
from ltd.lookup import default_text_scores
from ltd.policies import Both, Lookup, Policy
from ltd.policies.learned.policy import Learned
from ltd.policies.static import Static
from ltd_rl.baselines.both_search import best_both
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, named_width
from ltd_rl.tuning.work import Work


def best_setting(outcomes: Outcomes) -> Static:
    """The best static tree."""
    depth, step, _ = best_static(outcomes)
    return Static(depth, outcomes.sizes[step], named_width(outcomes.width))


def best_rule(work: Work, known: list[RecordedGeneration], latency: LatencyModel) -> Both | Lookup:
    """The best policy without networks: of both sources, or of the text alone where there is no draft.

    A rule keeps no scores of its own, so it is searched by those that the decoder has.
    """
    scores = work.decoder.text_scores or default_text_scores()
    if not work.drafts:
        return best_lookup(known, latency, scores)[0]
    return replace(best_both(known, latency, scores)[0], width=named_width(work.setting.width))


def method_of(policy: Policy) -> str:
    """The method of a policy that a name says all of."""
    if isinstance(policy, Lookup):
        return f"lookup:size={policy.size}:least={policy.least}"
    assert isinstance(policy, Both | Static)
    width = "" if policy.width is None else f":width={policy.width}"
    if isinstance(policy, Both):
        return f"both:depth={policy.depth}:size={policy.size}:text={policy.text}:alone={policy.alone}{width}"
    return f"static:{policy.depth}:{policy.size}{width}"


def constant(policy: Learned, depth: int, size: int) -> Learned:
    """A static tree as a policy, which may not lose either, where its size is among those with known costs."""
    costs = policy.costs
    if costs is not None:
        step = policy.sizes.index(size) if size in policy.sizes else None
        costs = None if step is None else replace(costs, verify=(costs.verify[step],), lookup=0.0)
    return Learned(policy.made_for, depth, (size,), costs=costs)
