"""Decides by a rule of your own how deep to draft: `python examples/own_rule.py [TARGET HEAD]`.

You see which depth and size the rule chose in every cycle. Any object with these methods is an `ltd.Policy`; one that
remembers something between cycles returns a new object from `start`. A rule can change the speed, never the text.
"""

import math

import ltd
from ltd.common.program import run_words


class WhileLikely:
    max_depth, max_size = 6, 28

    def start(self, batch):  # what decides during one call, for so many prompts
        return self

    def keep(self, rows):  # only these prompts go on
        pass

    def speculate(self, lengths, gained):  # whether to draft at all in this cycle
        return True

    def continue_drafting(self, tree, depth):  # as long as one path is likelier than 20 %
        return tree.newest_scores.max().item() > math.log(0.2)

    def choose_size(self, tree, depth):  # how many candidates to verify
        return 4 * (depth + 1)


def main(target=None, head=None):
    decoder = ltd.load(target, head, policy=WhileLikely())
    told = decoder.generate(decoder.encode("Count from one to twenty."), max_new_tokens=64).statistics
    print(*(f"{depth}:{size}" for depth, size in zip(told.depths, told.sizes, strict=True)))


run_words(main, "python examples/own_rule.py [TARGET HEAD]")
