"""One vLLM engine on the CPU: a job from standard input, its results into a file, both JSON.

    python bench/vllm_engine.py out.json < job.json

`vllm_check.py` runs it with the Python of vLLM's own environment, so it imports nothing of ours. An engine is a
process: vLLM does not let go of one before its process ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

# Read when vLLM is imported: one process, whose prints and errors are ours, and no question to a network.
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
DRAFTS, ACCEPTED = "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens_per_pos"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Generates greedily, one prompt after the other.

    Args:
        job: `model`, a folder; `prompts`, lists of token ids; `new_tokens`, at most; `stop_token_ids`; `max_length`;
            `drafted`, how many tokens the head in the folder `head` drafts at a time, 0 for plain decoding.

    Returns:
        `answers`, token ids; `drafts`, how often the head drafted; `accepted`, how many of these drafts were accepted
        up to each of their tokens at least; `vllm`, `torch`: versions.
    """
    vllm = import_module("vllm")
    eagle = {"method": "eagle3", "model": job["head"], "num_speculative_tokens": job["drafted"]}
    engine = vllm.LLM(
        model=job["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=job["max_length"],
        max_num_seqs=1,
        disable_log_stats=False,  # else nothing is counted
        speculative_config=eagle if job["drafted"] else None,
    )
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=job["new_tokens"], stop_token_ids=job["stop_token_ids"])
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in job["prompts"]], settings, use_tqdm=False)
    drafts, accepted = counted(engine.get_metrics())
    return {
        "answers": [list(output.outputs[0].token_ids) for output in outputs],
        "drafts": drafts,
        "accepted": accepted,
        "vllm": vllm.__version__,
        "torch": metadata.version("torch"),
    }


def counted(metrics: Iterable[Any]) -> tuple[int, list[int]]:
    """How often there was a draft, and how many were accepted up to each token, of vLLM's counters."""
    drafts, accepted = 0, []
    for metric in metrics:
        if metric.name == DRAFTS:
            drafts = metric.value
        elif metric.name == ACCEPTED:
            accepted = list(metric.values)
    return drafts, accepted


if __name__ == "__main__":
    os.environ |= SETTINGS
    Path(sys.argv[1]).write_text(json.dumps(run(json.load(sys.stdin))), encoding="utf-8")
