"""The memory plan keeps its promises for any model and any budget."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airllm_rs.checkpoint import StoredWeight, TensorInfo
from airllm_rs.checkpoint.stored import plain
from airllm_rs.config import ModelConfig
from airllm_rs.errors import BudgetError
from airllm_rs.families import family_of, read_config
from airllm_rs.memory import (
    MemoryPlan,
    PlanLimits,
    PlanRequest,
    format_bytes,
    plan,
    replan,
    smallest_budget,
)
from airllm_rs.memory.demand import SCRATCH_BYTES
from airllm_rs.memory.prediction import Rate
from airllm_rs.memory.report import infeasible_json, to_json
from airllm_rs.memory.residents import spread
from airllm_rs.memory.units import rows_per_block, slot_bytes

MIB = 1 << 20
GIB = 1 << 30
ITEM = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass(frozen=True)
class Layout:
    """Tensors of a model, one after the other in one file."""

    places: dict[str, TensorInfo]

    def stored(self, name: str) -> StoredWeight:
        return plain(name, self.places[name])


def layout(config: ModelConfig, dtype: str = "BF16", start: int = 4096) -> Layout:
    places: dict[str, TensorInfo] = {}
    for layer in family_of(config).layers(config):
        for spec in layer.tensors:
            if spec.name not in places:
                nbytes = ITEM[dtype]
                for length in spec.shape:
                    nbytes *= length
                places[spec.name] = TensorInfo(dtype, spec.shape, 0, start, nbytes)
                start += nbytes
    return Layout(places)


def model(model_type: str = "llama", **changes: object) -> ModelConfig:
    raw: dict[str, object] = {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
    }
    return read_config({"model_type": model_type, **raw, **changes})


def request(budget: int, **changes: object) -> PlanRequest:
    base = PlanRequest(budget_bytes=budget, baseline_bytes=720 * 10**6, compute_dtype="BF16")
    return replace(base, **changes)  # type: ignore[arg-type]


TINY: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
}
TINY_LIMITS = PlanLimits(max_unit_bytes=8192, group_bytes=8192, resident_below=1024, ring_bytes=0)


def check(found: MemoryPlan, config: ModelConfig, files: Layout) -> None:
    """Assert what holds for every plan."""
    assert found.planned_bytes <= found.budget_bytes
    kept = set(found.residents)
    assert len(kept) == len(found.residents)
    streamed = [index for index in found.order if index not in kept]
    sizes = sorted(found.units[index].nbytes for index in streamed)
    assert found.fits == (not streamed)
    assert found.ring_bytes >= sum(sizes[-2:])
    if not streamed:
        assert found.ring_bytes == 0
    cap = found.inputs.request.weights_bytes
    if cap is not None:
        assert found.ring_bytes + found.resident_bytes <= cap
    assert [unit.index for unit in found.units] == list(range(len(found.units)))
    # every tensor is there once, its rows without gap or overlap
    rows: dict[str, int] = {}
    for unit in found.units:
        assert unit.nbytes == slot_bytes(unit.pieces)
        for piece in unit.pieces:
            info = files.places[piece.name]
            assert piece.row_start == rows.get(piece.name, 0)
            row_bytes = info.nbytes // info.shape[0]
            assert piece.offset == info.offset + piece.row_start * row_bytes
            assert piece.nbytes == (piece.row_stop - piece.row_start) * row_bytes
            assert piece.shape == (piece.row_stop - piece.row_start, *info.shape[1:])
            rows[piece.name] = piece.row_stop
    assert rows == {name: info.shape[0] for name, info in files.places.items()}
    # the order is that of use
    used = [spec.name for layer in family_of(config).layers(config) for spec in layer.tensors]
    if config.tie_word_embeddings:
        used = used[1:]
    ordered = [
        (piece.name, piece.row_start) for i in found.order for piece in found.units[i].pieces
    ]
    assert ordered == sorted(ordered, key=lambda entry: (used.index(entry[0]), entry[1]))
    small = [i for i in found.residents if i not in found.order]
    assert list(found.residents) == small + [i for i in found.order if i in kept]


def blocks(found: MemoryPlan) -> set[tuple[str, int, int]]:
    return {(p.name, p.row_start, p.row_stop) for unit in found.units for p in unit.pieces}


def plan_or_error(
    config: ModelConfig, files: Layout, asked: PlanRequest
) -> MemoryPlan | BudgetError:
    try:
        return plan(config, files, asked)
    except BudgetError as error:
        return error


models = st.builds(
    lambda model_type, layers, hidden, inner, vocab, tied: model(
        model_type,
        num_hidden_layers=layers,
        hidden_size=64 * hidden,
        intermediate_size=64 * inner,
        vocab_size=vocab,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=tied,
    ),
    # families whose defaults are no giants: what is planned is tensors, whoever names them
    st.sampled_from(["gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3"]),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(2, 5000),
    st.booleans(),
)
requests = st.builds(
    lambda extra, baseline, dtype, weights, context, seqs, unit, group, below: PlanRequest(
        budget_bytes=extra,
        baseline_bytes=baseline,
        compute_dtype=dtype,
        weights_bytes=weights,
        context=context,
        max_num_seqs=seqs,
        limits=PlanLimits(unit, group, below, unit * 3),
    ),
    st.integers(1, 400 * MIB),
    st.integers(0, 50 * MIB),
    st.sampled_from(["BF16", "F32"]),
    st.none() | st.integers(1, 20 * MIB),
    st.none() | st.integers(1, 3000),
    st.integers(1, 4),
    st.integers(4096, MIB),
    st.integers(0, MIB),
    st.integers(0, 64 << 10),
)


@settings(max_examples=150, deadline=None)
@given(models, requests, st.sampled_from(sorted(ITEM)), st.integers(0, 9000))
def test_a_plan_keeps_its_promises_or_names_the_smallest_that_works(
    config: ModelConfig, asked: PlanRequest, dtype: str, start: int
) -> None:
    files = layout(config, dtype, start)
    for _ in range(3):
        found = plan_or_error(config, files, asked)
        if isinstance(found, MemoryPlan):
            check(found, config, files)
            return
        assert format_bytes(found.smallest_bytes) in str(found)
        if found.option == "memory":
            assert asked.budget_bytes == found.allowed_bytes < found.smallest_bytes
            assert found.smallest_bytes == smallest_budget(config, files, asked)
            asked = replace(asked, budget_bytes=found.smallest_bytes)
        else:
            assert asked.weights_bytes == found.allowed_bytes
            asked = replace(asked, weights_bytes=found.smallest_bytes)
    pytest.fail("the smallest that works does not work")


@settings(max_examples=80, deadline=None)
@given(models, requests, st.sampled_from(sorted(ITEM)))
def test_one_byte_below_the_smallest_is_refused(
    config: ModelConfig, asked: PlanRequest, dtype: str
) -> None:
    files = layout(config, dtype)
    smallest = smallest_budget(config, files, asked)
    with pytest.raises(BudgetError):
        plan(config, files, replace(asked, budget_bytes=smallest - 1))


@settings(max_examples=80, deadline=None)
@given(models, requests, st.integers(1, 6000), st.integers(1, 6))
def test_a_longer_context_only_gives_up_residents(
    config: ModelConfig, asked: PlanRequest, context: int, seqs: int
) -> None:
    files = layout(config)
    smallest = smallest_budget(config, files, asked)
    asked = replace(asked, budget_bytes=smallest + asked.budget_bytes // 20, weights_bytes=None)
    before = plan(config, files, asked)
    try:
        after = replan(before, context, seqs)
    except BudgetError as error:
        wanted = replace(
            asked,
            context=context,
            max_num_seqs=seqs,
            budget_bytes=max(error.smallest_bytes, asked.budget_bytes),
        )
        check(plan(config, files, wanted), config, files)
        return
    check(after, config, files)
    assert after is before or (after.context, after.max_num_seqs) == (context, seqs)
    assert after.kv_bytes >= min(context, 256) * seqs * 4
    assert (after.units, after.order) == (before.units, before.order)
    assert after.ring_bytes == before.ring_bytes
    assert set(after.residents) <= set(before.residents)
    assert [i for i in before.residents if i in set(after.residents)] == list(after.residents)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(0, 20000))
def test_residents_are_spread_evenly(sizes: list[int], room: int) -> None:
    chosen = spread(sizes, room)
    used = sum(sizes[i] for i in chosen)
    assert used <= room
    assert chosen == sorted(set(chosen))
    rest = [size for i, size in enumerate(sizes) if i not in chosen]
    assert not rest or room - used < min(rest)
    share = min(room / sum(sizes), 1)
    kept = seen = 0
    for index, size in enumerate(sizes):
        seen += size
        kept += size if index in chosen else 0
        assert abs(kept - share * seen) <= 3 * max(sizes)


@given(st.integers(1, 300_000), st.integers(1, 20_000), st.integers(1, 64 * MIB))
def test_blocks_are_even_and_small_enough(rows: int, row_bytes: int, limit: int) -> None:
    step = rows_per_block(rows, row_bytes, limit)
    assert 1 <= step <= rows
    assert step == 1 or step * row_bytes <= limit
    if step < rows and step > 64:
        assert step % 64 == 0


def test_the_model_of_the_readme_keeps_what_it_can_at_3_gib() -> None:
    config = model()
    files = layout(config)
    found = plan(config, files, request(3 * GIB, context=512))
    check(found, config, files)
    assert found.total_bytes > 6.2e9
    assert found.resident_bytes >= 3 * GIB - 720 * 10**6 - 600 * 10**6
    assert found.sweeps(512) == 1
    assert found.ring_bytes >= 192 * MIB
    assert found.embedding == "gathered"
    assert set(found.order[-5:]) <= set(found.residents), "the head stays"
    streamed = [i for i in found.order if i not in set(found.residents)]
    runs = [sum(found.units[i].nbytes for i in range(a + 1, b)) for a, b in pairwise(streamed)]
    assert max(runs) <= 192 * MIB // 2, "the disk is never idle for want of free slots"
    longer = replan(found, 4096)
    assert longer.resident_bytes < found.resident_bytes
    assert longer.sweeps(4096) == 1


def test_many_short_sequences_fit_where_one_long_does() -> None:
    config = model()
    files = layout(config)
    found = plan(config, files, request(3 * GIB, context=1024))
    assert replan(found, 256, 4) is found
    assert replan(found, 1024) is found
    sliding = model("mistral", sliding_window=64)
    found = plan(sliding, layout(sliding), request(3 * GIB, context=4096))
    assert replan(found, 1024, 4).kv_bytes > found.kv_bytes, "each has a window of its own"


def test_all_of_it_stays_where_there_is_room() -> None:
    config = model()
    files = layout(config)
    found = plan(config, files, request(9 * GIB))
    check(found, config, files)
    assert found.fits
    assert found.embedding == "resident"
    assert found.resident_dtype == "stored"
    assert found.chunk_tokens == 512
    smaller = plan(config, files, request(found.planned_bytes - MIB))
    check(smaller, config, files)
    assert smaller.fits, "the table is looked up on disk before a matrix is streamed"
    assert smaller.embedding == "gathered"


def test_weights_are_converted_once_only_if_all_fit_converted() -> None:
    config = model()
    files = layout(config, "F16")
    assert plan(config, files, request(20 * GIB, compute_dtype="F32")).resident_dtype == "compute"
    stored = plan(config, files, request(9 * GIB, compute_dtype="F32"))
    assert (stored.fits, stored.resident_dtype) == (True, "stored")
    assert stored.scratch_bytes >= SCRATCH_BYTES


def test_a_tied_table_is_the_head_and_is_looked_up_where_it_lies() -> None:
    config = model(tie_word_embeddings=True)
    files = layout(config)
    found = plan(config, files, request(3 * GIB, context=512))
    check(found, config, files)
    assert found.tied
    assert found.embedding == "resident"
    names = {piece.name for i in found.order[-5:] for piece in found.units[i].pieces}
    assert names == {"model.embed_tokens.weight"}
    tight = plan(config, files, request(3 * GIB, context=512, weights_bytes=150 * MIB))
    check(tight, config, files)
    assert tight.embedding == "gathered"


def test_a_cap_for_weights_makes_a_tiny_model_stream() -> None:
    config = model("llama", **TINY)
    files = layout(config)
    asked = request(2 * GIB, weights_bytes=1, limits=TINY_LIMITS)
    with pytest.raises(BudgetError, match="weights_memory=1B is too little") as caught:
        plan(config, files, asked)
    found = plan(config, files, replace(asked, weights_bytes=caught.value.smallest_bytes))
    check(found, config, files)
    assert [i for i in found.residents if i in found.order] == []
    assert len(found.order) > 10
    layer = sum(u.nbytes for u in found.units if u.layer == 1 and u.index in found.order)
    assert found.ring_bytes < layer
    assert found.sweeps(100) > 1 or found.chunk_tokens >= 100


def test_blocks_are_the_same_whatever_the_budget() -> None:
    config = model()
    files = layout(config)
    plans = [
        plan(config, files, request(9 * GIB)),
        plan(config, files, request(3 * GIB)),
        plan(config, files, request(9 * GIB, weights_bytes=130 * MIB)),
    ]
    assert blocks(plans[0]) == blocks(plans[1]) == blocks(plans[2])
    assert max(u.nbytes for u in plans[0].units) <= 64 * MIB + 8192


def test_a_large_model_needs_no_more_ring_than_a_small_one() -> None:
    config = model(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, vocab_size=128256,
        num_attention_heads=64, num_key_value_heads=8,
    )  # fmt: skip
    files = layout(config)
    found = plan(config, files, request(2 * GIB, context=2048))
    check(found, config, files)
    assert found.total_bytes > 135e9
    assert found.ring_bytes == 192 * MIB
    assert found.sweeps(1024) == -(-1024 // found.chunk_tokens)
    assert plan(config, files, request(8 * GIB, context=2048)).sweeps(1024) == 1
    assert smallest_budget(config, files, request(1, context=64)) < 1.2 * GIB


def test_a_window_bounds_its_kv_cache() -> None:
    whole = model("mistral", sliding_window=None)
    sliding = model("mistral", sliding_window=256)
    asked = request(4 * GIB, context=8192)
    most = plan(whole, layout(whole), asked).kv_bytes
    assert most == 8192 * 28 * 2 * 8 * 128 * 2
    assert plan(sliding, layout(sliding), asked).kv_bytes == most * (256 + 512 + 256) // 8192


def test_json_has_the_keys_of_the_surface() -> None:
    config = model()
    files = layout(config)
    found = plan(config, files, request(3 * GIB, context=512))
    printed = json.loads(json.dumps(to_json(found, Rate(2.4, "given"))))
    assert printed["feasible"] is True
    assert printed["predicted"]["bytes_per_sweep"] == found.streamed_bytes_per_sweep
    assert printed["predicted"]["limited_by"] == "disk"
    seconds = printed["predicted"]["s_per_token"]
    assert seconds == pytest.approx(found.streamed_bytes_per_sweep / 2.4e9, rel=0.001)
    tokens = printed["max_concurrent_tokens"]
    smallest = printed["smallest_bytes"]
    assert plan(config, files, request(smallest, context=512)).budget_bytes == smallest
    assert plan(config, files, request(3 * GIB, context=tokens)).context == tokens
    with pytest.raises(BudgetError) as caught:
        plan(config, files, request(3 * GIB, context=tokens + 1))
    refused = json.loads(json.dumps(infeasible_json(caught.value)))
    assert refused["feasible"] is False
    assert refused["smallest_bytes"] == caught.value.smallest_bytes
