"""Drafting as Gymnasium environments, on traces and live. Importing this registers them:

import ltd_rl.environments
gymnasium.make("ltd/DepthReplay-v0", outcomes=…, layout=…, reward=…, partner=…)
"""

from importlib.util import find_spec

# The exact trainer reads its rewards here, and needs no environments.
if find_spec("gymnasium") is not None:
    from ltd_rl.environments.registration import register

    register()
