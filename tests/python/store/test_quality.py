"""What encoding costs has bounds: of Gaussian weights, of real ones, of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import quality

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE = Path(__file__).parents[3] / ".cache"
MINILM = CACHE / "minilm/model.safetensors"
SMOLLM = CACHE / "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# Percent of the squares; docs/quantisation.md has what is measured.
OF_GAUSSIAN = {"8bit": 0.0040, "4bit": 0.60, "4bit-hq": 0.48, "nf4": 0.86}
OF_REAL = {"8bit": 0.0044, "4bit": 0.62, "4bit-hq": 0.48, "nf4": 0.90}


def check(errors: Mapping[str, float], limits: Mapping[str, float]) -> None:
    for scheme, limit in limits.items():
        assert 0 < errors[scheme] <= limit, scheme
    # bitsandbytes' numbers, which both codebooks of ours have to beat at no more bits
    assert errors["nf4"] == pytest.approx(errors[quality.AIRLLM], rel=1e-6)
    assert errors["4bit"] < 0.70 * errors["nf4"]
    assert errors["4bit-hq"] < 0.55 * errors["nf4"]


def test_gaussian_weights_lose_no_more_than_they_must() -> None:
    check(quality.weight_errors({"w": quality.gaussian(256, 4096)}), OF_GAUSSIAN)


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.exists(), reason="`make test` downloads the weights")
def test_real_weights_lose_no_more_than_they_must() -> None:
    check(quality.weight_errors(quality.linears(MINILM)), OF_REAL)


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM.exists(), reason="`make test` downloads the model")
def test_8bit_weights_do_not_change_what_a_model_expects(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    quality.bf16_checkpoint(SMOLLM, model)
    ids = quality.windows(model, 4, 256)
    plain, packed = (
        quality.perplexity_of_ours(model, scheme, ids, tmp_path) for scheme in (None, "8bit")
    )
    assert packed == pytest.approx(plain, rel=2e-3)
    assert packed != plain
