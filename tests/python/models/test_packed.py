"""Quantised checkpoints run as they lie: logits are those of the numbers that they mean."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

import airllm_rs
from airllm_rs import _core
from airllm_rs.memory import PlanLimits
from airllm_rs.weights.packed import packed_layout
from loading import MODES, Mode, load, make_plan, open_files
from packed_checkpoints import packed_checkpoint, split
from packed_formats import FORMATS, airllm4, airllm8
from store_making import make
from tiny import generate, oracle, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAYS = ("resident", "streamed", "chunks held")
# LLM.int8() is q * SCB / 127, in an order of its own
LOOSE = {"bnb int8": 1e-6}

IDS = prompt(40)
OPTIONS: dict[str, object] = {"max_new_tokens": 6, "do_sample": False}

Q = "model.layers.1.self_attn.q_proj.weight"


@cache
def reference(plain: Path) -> list[torch.Tensor]:
    """Return logits of a long and of a short prompt, and tokens generated after the long one."""
    model = oracle(plain)
    with torch.no_grad():
        logits = [model(some).logits for some in (IDS, IDS[:, :3])]
        return [*logits, generate(model, IDS, **OPTIONS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    written: dict[str, tuple[Path, Path]] = {}

    def write(name: str) -> tuple[Path, Path]:
        if name not in written:
            model_type = "qwen2" if len(written) % 2 else "llama"
            written[name] = packed_checkpoint(tmp_path_factory.mktemp("packed"), name, model_type)
        return written[name]

    return write


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_model_is_transformers_with_the_weights_unpacked(
    name: str, mode: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    path, plain = made(name)
    long, short, tokens = reference(plain)
    with torch.no_grad(), load(path, mode) as model:
        # many rows are unpacked, few are multiplied packed
        torch.testing.assert_close(model(IDS).logits, long, atol=1e-3, rtol=0)
        torch.testing.assert_close(model(IDS[:, :3]).logits, short, atol=1e-3, rtol=0)
        assert torch.equal(generate(model, IDS, **OPTIONS), tokens)


@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_what_the_format_says_to_the_bit(
    name: str, mode: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    path, plain = made(name)
    weights = load_file(plain / "model.safetensors")
    with load(path, mode) as model:
        source = model.executor.weights
        for _ in range(2):  # what is kept is unpacked once, and not again
            for key, expected in weights.items():
                if "_proj.weight" not in key:
                    continue
                matrix = source.matrix(key)
                found = torch.zeros_like(expected)
                for index, block in enumerate(matrix.blocks):
                    weight = matrix.take(index, out_of_turn=True)
                    rows = found[block.start : block.stop].numpy()
                    _core.dequantize_into(weight, rows, "F32")
                    del weight
                    matrix.done(index)
                tolerance = LOOSE.get(name, 0)
                torch.testing.assert_close(found, expected, atol=0, rtol=tolerance)
            source.release()


@pytest.mark.parametrize("name", FORMATS)
def test_the_scheme_is_named_and_nothing_is_left_over(
    name: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    path, _ = made(name)
    found = airllm_rs.inspect(path)
    assert found["native"] is True
    assert found["quantization"]["schemes"] == {FORMATS[name][2]: 14}  # type: ignore[index]
    assert found["unused_tensors"] == []
    assert found["misaligned_tensors"] == []
    files = open_files(path)
    for weight in files.packed.values():
        packed_layout(weight.layout)  # type: ignore[arg-type]
    assert files.packed[Q].shape == (256, 256)


def test_large_matrices_are_cut_where_blocks_of_scales_end(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    path, _ = made("fp8 blocks")
    with load(path, "chunks held") as model:
        down = model.executor.weights.matrix("model.layers.0.mlp.gate_proj.weight")
        assert [(block.start, block.stop) for block in down.blocks] == [
            (0, 128), (128, 256), (256, 320)
        ]  # fmt: skip


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize("hidden", [256, 192])
def test_what_airllm_has_split_and_packed_runs_as_it_is(
    kind: str, mode: str, hidden: int, tmp_path: Path
) -> None:
    encode = airllm4 if kind == "4bit" else airllm8
    directory, plain = split(tmp_path, encode, kind, hidden_size=hidden)
    with torch.no_grad(), load(directory, mode) as model:
        want = oracle(plain)(IDS).logits
        torch.testing.assert_close(model(IDS).logits, want, atol=1e-3, rtol=0)


def test_a_copy_of_a_quantised_checkpoint_is_quantised_the_same_way(
    made: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    path, plain = made("gptq")
    make(path, tmp_path / "store")
    ids = prompt(9)
    names = {file.name for file in (tmp_path / "store").glob("*.safetensors")}
    assert "others.safetensors" not in names
    with torch.no_grad(), load(tmp_path / "store", "streamed") as model:
        want = oracle(plain)(ids).logits
        torch.testing.assert_close(model(ids).logits, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["gptq", "awq", "packed asymmetric"])
def test_projections_that_stream_as_one_unit_are_each_themselves(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = PlanLimits(resident_below=0, group_bytes=170 << 10)
    monkeypatch.setitem(MODES, "large groups", Mode(0.5, large))
    path, plain = packed_checkpoint(tmp_path, name, num_hidden_layers=16)
    ids = prompt(3)
    with torch.no_grad(), load(path, "large groups") as model:
        source = model.executor.weights
        projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        matrices = [source.matrix(f"model.layers.0.{which}.weight") for which in projections]
        assert len({block.unit for matrix in matrices for block in matrix.blocks}) == 1
        assert not any(matrix.is_resident for matrix in matrices)
        want = oracle(plain)(ids).logits
        torch.testing.assert_close(model(ids).logits, want, atol=1e-3, rtol=0)


def test_what_is_given_up_is_read_and_repacked_again(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    path, plain = made("gptq")
    with torch.no_grad(), load(path, "part resident") as model:
        model(IDS)
        executor = model.executor
        before = executor.plan.residents
        always = executor.plan.inputs.table.always
        executor._adopt(replace(executor.plan, residents=always, embedding="gathered"))
        assert set(always) < set(before)
        torch.testing.assert_close(model(IDS).logits, reference(plain)[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["resident", "part resident"])
@pytest.mark.parametrize("name", ["gptq", "packed asymmetric", "fp8 blocks"])
def test_what_is_really_read_and_kept_is_repacked_once(
    name: str, mode: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    path, plain = made(name)
    with torch.no_grad(), load(path, mode, engine="buffered") as model:
        for _ in range(2):
            torch.testing.assert_close(model(IDS).logits, reference(plain)[0], atol=1e-3, rtol=0)


def test_from_pretrained_runs_a_quantised_checkpoint(
    made: Callable[[str], tuple[Path, Path]],
) -> None:
    path, plain = made("awq")
    with airllm_rs.AutoModel.from_pretrained(path, dtype="float32", progress=False) as model:
        assert torch.equal(generate(model, IDS, **OPTIONS), reference(plain)[2])


def test_the_plan_counts_what_repacking_takes(made: Callable[[str], tuple[Path, Path]]) -> None:
    files = open_files(made("gptq")[0])
    way = MODES["streamed"]
    planned = make_plan(files, way, arithmetic="F32")
    gate = files.packed["model.layers.0.mlp.gate_proj.weight"]
    unpacked = 320 * 256 // 2 + 320 * 4 + 320 * 4 * 2  # numbers, zero points, scales
    assert sum(p.repacking.nbytes(320) for p in gate.parts if p.repacking) == unpacked
    without = make_plan(open_files(made("packed")[0]), way, arithmetic="F32")
    assert planned.scratch_bytes - without.scratch_bytes == unpacked
    unit = next(u for u in planned.units if u.weights == (gate.name,))
    assert unit.nbytes >= sum(piece.nbytes for piece in unit.pieces) + 320 * 4 // 2
