"""From a plan to a model: the disk reads while Python imports."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from airllm_rs.auto.accelerators import choose_device, find_accelerators, seen_by_torch
from airllm_rs.memory import PlanLimits, format_bytes
from airllm_rs.store.verification import verify_at_load
from airllm_rs.weights.readahead import open_readahead

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airllm_rs.auto.model import Model
    from airllm_rs.auto.opening import Opened
    from airllm_rs.stats.progress import Progress

log = logging.getLogger(__name__)


def load_model(
    opened: Opened,
    progress: Progress,
    *,
    importing: AbstractContextManager[object] | None = None,
) -> Model:
    """Start reading, import torch and transformers meanwhile, and return the model.

    Nothing is waited for: the first sweep takes the weights as they arrive.

    Args:
        opened: The model.
        progress: Where sweeps that take long are shown.
        importing: Entered around the imports.
    """
    started = time.monotonic()
    plan, options = opened.plan, opened.options
    verify_at_load(opened.files.path, options.verify, progress, opened.budget.nbytes)
    log.info("%s", opened.budget)
    log.info(
        "weights: %s of %s stay in memory, %s are streamed per sweep; context: %d tokens",
        # residents are a little larger than what they hold: reads are widened to whole pages
        format_bytes(min(plan.resident_bytes, plan.total_bytes)),
        format_bytes(plan.total_bytes),
        format_bytes(plan.streamed_bytes_per_sweep),
        plan.context,
    )
    most = plan.inputs.request.limits.ring_bytes
    if most != PlanLimits().ring_bytes and not plan.fits:
        log.info(
            "ring: %s, no larger than it must be above %s: in earlier runs computing was the limit",
            format_bytes(plan.ring_bytes),
            format_bytes(most),
        )
    readahead = open_readahead(
        plan,
        opened.files.files,
        engine=options.engine,
        throttle_gbps=options.throttle_gbps,
        latency_us=options.latency_us,
        prefetching=options.prefetching,
        trace=options.trace,
        mlock=options.mlock,
    )
    try:
        # seconds of imports, in which the disk reads residents
        with importing or nullcontext():
            from airllm_rs.auto.model import Model

        log.info("%s", choose_device(str(options.device), find_accelerators(), seen_by_torch))
        model = Model(opened, readahead, progress=progress)
    except BaseException:
        readahead.close()
        raise
    model.timings.load_s = time.monotonic() - started
    return model
