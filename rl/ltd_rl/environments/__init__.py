"""Drafting as Gymnasium environments, on traces and live. Importing this registers them:

import ltd_rl.environments
gymnasium.make("ltd/DepthReplay-v0", outcomes=…, layout=…, reward=…, partner=…)
"""

from ltd_rl.environments.registration import register

register()
