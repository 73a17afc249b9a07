"""GGUF files of every family against the judges of its checkpoints, and against llama.cpp."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file

from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families import read_config
from airllm_rs.families.baichuan import has_norm_head
from gguf_converter import NAMES, convert
from loading import load
from models import in_tree
from models.architectures import ROWS, SCENARIOS, Row
from models.originals import cases, llama_cpp
from models.originals.cases import CASES
from models.test_families import run
from tiny import prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-4
"""Of the largest logit."""
PACKED_TOLERANCE = 1e-3

# What llama.cpp's converter leaves out of a file: the model is another past some length, or has a
# window where nothing says so.
LEFT_OUT = {
    "qwen2, window",
    "qwen, past its length",
    "qwen, first revision",
    "internlm, dynamic",
    "internlm2, dynamic",
    "internlm2, dynamic, factor 1",
    "internlm3, dynamic",
    "qwen3_moe, dense layer",
    "qwen3_moe, sparse step",
}
# What files do not say, as it is in all published models.
AS_PUBLISHED: dict[str, dict[str, object]] = {
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 7,
        "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 4.0},
        },
    },
}
# Files say what these are by their number of layers.
LAYERS = {name: 32 if "7b" in name else 40 for name in CASES if name.startswith("baichuan")}
IN_FILES = [row for row in ROWS.values() if row.name not in LEFT_OUT | LAYERS.keys()]

COMPARED = ("prefill", "decode, left padding")

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Path]:
    """Write the checkpoint of a row once."""
    paths: dict[str, Path] = {}

    def write(row: Row) -> Path:
        if row.name not in paths:
            path = tmp_path_factory.mktemp(row.family)
            others = AS_PUBLISHED.get(row.name)
            paths[row.name] = (
                in_tree.write(row.name, path, others=others) if others else row.write(path)
            )
        return paths[row.name]

    return write


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return config.json and the tensors of a checkpoint."""
    config = json.loads((path / "config.json").read_text())
    return config, load_file(path / "model.safetensors")


def of_layers(name: str, layers: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a case with another number of layers: config.json and tensors."""
    config = {**CASES[name].config, "num_hidden_layers": layers}
    return config, cases.random_weights(config, seed=1)


def differences(
    path: Path,
    row: Row,
    wants: Mapping[str, Tensor],
    mode: str,
    overrides: Mapping[str, object] | None = None,
) -> float:
    """Return the most that our logits are off, of the largest logit, over all scenarios."""
    found = []
    with load(path, mode, overrides=overrides) as model:
        for scenario, want in wants.items():
            got = run(model, row, scenario).double()
            kept = row.mask.bool() if "padding" in scenario else torch.ones_like(row.ids).bool()
            found.append(float((got - want)[kept].abs().max() / want.abs().max()))
    print(f"{row.name}, {mode}: {max(found):.1e}")  # noqa: T201 - shown by pytest -s
    return max(found)


def wanted(row: Row, checkpoint: Path) -> dict[str, Tensor]:
    """Return the judge's logits of a checkpoint."""
    return {name: row.oracle(checkpoint, name) for name in COMPARED if name in row.scenarios}


def wanted_of(name: str, config: Mapping[str, Any], tensors: dict[str, Array]) -> dict[str, Tensor]:
    """Return the reference's logits of other weights than those of the case."""
    found = {}
    for scenario in COMPARED:
        calls, is_padded = SCENARIOS[scenario]
        model, ids = CASES[name].reference(config, tensors), cases.tokens()
        mask = cases.padded() if is_padded else None
        parts = [
            model(ids[:, start:stop], None if mask is None else mask[:, :stop])
            for start, stop in calls
        ]
        found[scenario] = torch.from_numpy(np.concatenate(parts, axis=1))
    return found


def test_every_family_is_among_those_compared() -> None:
    assert {row.family for row in IN_FILES} | {"baichuan"} == set(NAMES)


@pytest.mark.parametrize("mode", ["resident", "ring below a layer"])
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in IN_FILES])
def test_logits_of_the_file_are_the_judges(
    row: Row, mode: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    checkpoint = written(row)
    path = convert(tmp_path / "a.gguf", *contents(checkpoint))
    assert differences(path, row, wanted(row, checkpoint), mode) <= TOLERANCE


@pytest.mark.parametrize("name", LAYERS)
def test_baichuan_is_known_by_its_layers(name: str, tmp_path: Path) -> None:
    config, tensors = of_layers(name, LAYERS[name])
    path = convert(tmp_path / "a.gguf", config, tensors)
    wants = wanted_of(name, config, tensors)
    # whose head is normalised is seen by the vocabulary, which is small here
    has_norm_head = {"norm_head": name.startswith("baichuan2")}
    for mode in ("resident", "ring below a layer"):
        assert differences(path, ROWS[name], wants, mode, has_norm_head) <= TOLERANCE


def test_baichuan_of_other_layers_is_refused(tmp_path: Path) -> None:
    path = convert(tmp_path / "a.gguf", *of_layers("baichuan-7b", 2))
    with pytest.raises(UnsupportedModelError, match=r"Baichuan of 2 layers; only of 32 \(RoPE\)"):
        open_checkpoint(path)


def test_the_head_of_baichuan_2_is_normalised(tmp_path: Path) -> None:
    config, tensors = of_layers("baichuan2-7b", 32)
    config |= {"vocab_size": 125_696}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((125_696, 64), np.float32)
    files = open_checkpoint(convert(tmp_path / "a.gguf", config, tensors))
    assert has_norm_head(read_config(files.config))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "deepseek_v3, yarn"])
def test_older_files_of_deepseek_have_one_matrix_for_keys_and_values(
    name: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS[name]
    checkpoint = written(row)
    path = convert(tmp_path / "a.gguf", *contents(checkpoint), splits_kv_b=False)
    assert differences(path, row, wanted(row, checkpoint), "streamed") <= TOLERANCE


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_long_prompts_attend_with_keys_and_values_of_matrices_of_their_own(
    name: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    checkpoint = written(ROWS[name])
    path = convert(tmp_path / "a.gguf", *contents(checkpoint))
    ids = prompt(150, sequences=1)
    want = in_tree.logits(in_tree.model_of(checkpoint), ids, [(0, 150)], None)
    for mode in ("resident", "streamed"):
        with load(path, mode) as model, torch.no_grad():
            got = model(ids).logits.double()
        assert float((got - want).abs().max() / want.abs().max()) <= TOLERANCE


def test_older_files_of_mixtral_have_a_tensor_for_each_matrix(
    written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS["mixtral"]
    checkpoint = written(row)
    path = convert(tmp_path / "a.gguf", *contents(checkpoint), stacks_experts=False)
    assert differences(path, row, wanted(row, checkpoint), "streamed") <= TOLERANCE


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in IN_FILES])
def test_packed_logits_are_the_judges_with_the_same_numbers(
    row: Row, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    config, tensors = contents(written(row))
    kind = "MXFP4" if row.family == "gpt_oss" else "Q8_0"
    tensors = {name: representable(name, tensor, kind) for name, tensor in tensors.items()}
    path = convert(
        tmp_path / "a.gguf",
        config,
        tensors,
        kind=gguf.GGMLQuantizationType[kind],
        splits_kv_b=False,
    )
    files = open_checkpoint(path)
    assert files.schemes[kind] >= 3 * config.get("num_hidden_layers", 2)
    if row.judge == "reference":
        wants = wanted_of(row.name, config, tensors)
    else:
        checkpoint = tmp_path / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(config))
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        wants = wanted(row, checkpoint)
    assert differences(path, row, wants, "ring below a layer") <= PACKED_TOLERANCE


@pytest.mark.parametrize("engine", ["buffered", "direct", "uring"])
@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3"])
def test_experts_are_read_from_within_their_tensor(
    name: str, engine: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS[name]
    checkpoint = written(row)
    path = convert(tmp_path / "a.gguf", *contents(checkpoint))
    want = row.oracle(checkpoint, "prefill")
    with load(path, "streamed", engine=engine) as model:
        got = run(model, row, "prefill").double()
    assert float((got - want).abs().max() / want.abs().max()) <= TOLERANCE


@pytest.mark.parametrize("name", ["qwen3_moe", "phi3, partial longrope"])
def test_models_are_whole_that_are_split_into_parts(
    name: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS[name]
    checkpoint = written(row)
    convert(tmp_path / "a.gguf", *contents(checkpoint), part_tensors=7)
    parts = sorted(tmp_path.glob("a-*-of-*.gguf"))
    assert len(parts) > 3
    wants = wanted(row, checkpoint)
    assert differences(parts[1], row, wants, "streamed") <= TOLERANCE


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_norms_of_gemma_are_the_checkpoints_in_bfloat16(name: str, tmp_path: Path) -> None:
    checkpoint = in_tree.write(name, tmp_path / "a", torch.bfloat16, others=AS_PUBLISHED[name])
    config = json.loads((checkpoint / "config.json").read_text())
    loaded = load_torch_file(checkpoint / "model.safetensors")
    tensors = {key: tensor.float().numpy() for key, tensor in loaded.items()}
    path = convert(tmp_path / "a.gguf", config, tensors, kind=gguf.GGMLQuantizationType.BF16)
    logits = []
    for source in (checkpoint, path):
        with load(source, "streamed", requested="BF16") as model:
            logits.append(run(model, ROWS[name], "decode"))
    assert torch.equal(*logits)


def test_layers_that_guess_further_tokens_are_left_out(
    written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS["deepseek_v3"]
    checkpoint = written(row)
    config, tensors = contents(checkpoint)
    further = {
        name.replace("layers.2.", "layers.3."): tensor
        for name, tensor in tensors.items()
        if "layers.2." in name
    }
    config |= {"num_hidden_layers": 4, "nextn_predict_layers": 1}
    path = convert(tmp_path / "a.gguf", config, tensors | further)
    assert differences(path, row, wanted(row, checkpoint), "streamed") <= TOLERANCE


def representable(name: str, tensor: Array, kind: str) -> Array:
    """Return what becomes of a matrix that is packed and unpacked; vectors as they are."""
    quantized = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[quantized]
    is_transposed = (tensor.ndim == 3 and "gate_up_proj" in name) or name.endswith("down_proj")
    rows = np.ascontiguousarray(tensor.swapaxes(1, 2) if is_transposed else tensor)
    if tensor.ndim == 1 or name.endswith("bias") or rows.shape[-1] % block:
        return tensor
    for _ in range(3):
        rows = gguf.dequantize(gguf.quantize(rows, quantized), quantized)
    again = gguf.dequantize(gguf.quantize(rows, quantized), quantized)
    np.testing.assert_array_equal(rows, again)
    return np.ascontiguousarray(rows.swapaxes(1, 2) if is_transposed else rows)


# llama.cpp itself.

# What it does otherwise, or not at all; each is a limit of its own and not of the file.
NOT_RUN = {
    "mistral": "it does not see the window of a file that says llama",
    "mixtral, window": "as above",
    "phi3, window": "it has switched the window of phi3 off",
    "deepseek_v2": "it counts groups by their two best experts, as V3 does; V2 by the best",
    "internlm2, biases": "it knows no biases there",
}
# It takes what has no latents of queries for the small one, which has so many layers.
LITE = 27
NEAR = 1e-4
# It takes GELU from a table of half floats; and in so many layers of random weights rounding grows:
# transformers in float32 is 1.3e-3 from itself in float64.
NEARLY = dict.fromkeys(
    ("gemma2", "gemma3_text", "deepseek_v2, no q_lora", "deepseek_v3, no q_lora"), 3e-3
)


@pytest.mark.originals
@pytest.mark.skipif(
    not llama_cpp.is_installed(), reason="xllamacpp is not here: make test-originals"
)
@pytest.mark.parametrize(
    "name", [*(row.name for row in IN_FILES if row.name not in NOT_RUN), *LAYERS]
)
def test_llama_cpp_says_the_same_of_the_file(
    name: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    row = ROWS[name]
    if name in LAYERS:
        config, tensors = of_layers(name, LAYERS[name])
        if name.startswith("baichuan2"):  # llama.cpp has no such head: normalised twice is once
            rows = tensors["lm_head.weight"]
            tensors["lm_head.weight"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    elif "no q_lora" in name:
        checkpoint = in_tree.write(name, tmp_path / "lite", others={"num_hidden_layers": LITE})
        config, tensors = contents(checkpoint)
    else:
        config, tensors = contents(written(row))
    if name == "qwen, no ntk, no logn":  # it runs no prompt that is longer than the file says
        config |= {"max_position_embeddings": 64}
    path = convert(tmp_path / "a.gguf", config, tensors)
    overrides: dict[str, object] = {}
    if name.startswith("baichuan2"):
        overrides = {"norm_head": True}
    elif name == "gpt_oss":  # it rounds the bounds of what YaRN scales
        rope = read_config(open_checkpoint(path).config).rope_parameters
        overrides = {"rope_parameters": {**rope, "truncate": True}}
    with load(path, "streamed", overrides=overrides) as model, torch.no_grad():
        ours = model(row.ids).logits[:, -1].double().log_softmax(-1).numpy()
    theirs = llama_cpp.next_logprobs(path, row.ids.numpy(), ours.shape[-1])
    difference = float(np.abs(ours - theirs).max())
    print(f"{name}: {difference:.1e}")  # noqa: T201 - shown by pytest -s
    assert difference <= NEARLY.get(name, NEAR)
