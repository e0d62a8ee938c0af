"""The line that tells a new user, once, that policies can be made for the machine at hand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ltd.errors import InputError

if TYPE_CHECKING:
    from ltd.decoding.decoder import Decoder

OFFERED = "offered"  # an empty file in the cache, beside what would be kept
LINE = (
    "tip: ltd tune --quick measures what cycles cost here and fits the policies to that, in half a minute "
    "(with the same --draft, --dtype and --threads); said once"
)


def offer_quick_tune(decoder: Decoder) -> None:
    """Says so on standard error, where that is possible, nothing was made here yet, and it was not said before.

    Where the cache cannot be written nothing is said: nothing could be kept there either.
    """
    from ltd.common.files import write_text
    from ltd.policies.learned.store import bundle_folder
    from ltd.policy_choice import choose_policy, quick_tunes, setting_of

    setting, device = setting_of(decoder), decoder.target.device
    if setting is None or not quick_tunes(setting, device):
        return
    if choose_policy(None, lambda: setting, device).origin not in ("shipped", "static"):
        return
    try:
        mark = bundle_folder(setting) / OFFERED
        if mark.exists():
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_text(mark, "")
    except (InputError, OSError):
        return
    print(LINE, file=sys.stderr)
