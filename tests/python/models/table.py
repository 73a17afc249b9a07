"""What docs/architectures.md says was checked: ``python -m models.table --write`` renews it.

Run from ``tests/python`` or with it on the path.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from airllm_rs.families import FAMILIES
from models.architectures import ROWS, SCENARIOS, Row
from models.originals.golden import path_of

if TYPE_CHECKING:
    from types import ModuleType

DOCS = Path(__file__).parents[3] / "docs" / "architectures.md"

NOT_ALONE = {"gemma3": "the text part of what sees, as `gemma3_text` with a prefix"}
"""Families without checkpoints of their own, and what they are."""

MODES = ("resident", "streamed", "ring below a layer")
"""How the weights of each native checkpoint come."""

REMOTE = "only its own remote code can run it"


@dataclass(frozen=True)
class Named:
    """A model that the README of AirLLM 4.0.0 names."""

    name: str
    model_type: str
    refused: str = ""
    """Why, where it is."""

    @property
    def status(self) -> str:
        """``"native"``, ``"bridged"`` or ``"refused"``: what the package and transformers know."""
        if self.model_type in FAMILIES:
            return "native"
        known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
        return "bridged" if self.model_type in known else "refused"


NAMED = (
    Named("Llama 2, 3, 3.1 (405B too), 3.3; Platypus2", "llama"),
    Named("Llama 4", "llama4"),
    Named("QWen 1", "qwen"),
    Named("Qwen2, Qwen2.5", "qwen2"),
    Named("Qwen2 MoE", "qwen2_moe"),
    Named("Qwen2-VL", "qwen2_vl"),
    Named("Qwen3", "qwen3"),
    Named("Qwen3-30B-A3B, Qwen3-235B-A22B", "qwen3_moe"),
    Named("Qwen3.5, Qwen3.8-27B", "qwen3_5"),
    Named("Qwen3.8-Flash-Next", "qwen4_exp"),
    Named("DeepSeek V2", "deepseek_v2"),
    Named("DeepSeek V3, R1", "deepseek_v3"),
    Named("Mistral", "mistral"),
    Named("Mixtral", "mixtral"),
    Named("Phi 1, 1.5, 2", "phi"),
    Named("Phi 3, Phi 4", "phi3"),
    Named("Gemma", "gemma"),
    Named("Gemma 2", "gemma2"),
    Named("Gemma 3", "gemma3"),
    Named("ChatGLM2, ChatGLM3", "chatglm"),
    Named("Baichuan 1, 2", "baichuan"),
    Named("InternLM", "internlm"),
    Named("InternLM 2, 2.5", "internlm2"),
    Named("Yi", "Yi"),
    Named("Kimi K3", "kimi_k3", REMOTE),
)


def native() -> str:
    """Return a row for each family, with its checkpoints and who judged them."""
    lines = ["| `model_type` | checkpoints | judge | left out |", "|---|---|---|---|"]
    for family in FAMILIES:
        rows = [row for row in ROWS.values() if row.family == family]
        judges = sorted({_judge(row) for row in rows})
        left_out = sorted({f"{name}: {part}" for row in rows for name, part in _left_out(row)})
        cells = [f"`{family}`", " · ".join(row.name for row in rows) or NOT_ALONE[family]]
        lines.append(_line(*cells, "; ".join(judges), "; ".join(left_out)))
    return "\n".join(
        [
            f"Each checkpoint: {'; '.join(SCENARIOS)}.",
            f"Weights {', '.join(MODES)}. In float32 within 1e-4 of the largest logit, in bfloat16",
            "at most twice the judge's own error. Two sequences, past windows and trained lengths.",
            "",
            *lines,
        ]
    )


def bridged() -> str | None:
    """Return a row for each architecture that runs through transformers' layers.

    None where their tests are not there.
    """
    kinds = _bridged_kinds()
    if kinds is None:
        return None
    modes = importlib.import_module("models.test_bridge").MODES
    lines = ["| `model_type` | unlike others | long prompts | decode |", "|---|---|---|---|"]
    for kind in kinds.KINDS.values():
        decode = "" if kind.keeps_tokens else "all tokens again"
        lines.append(_line(f"`{kind.model_type}`", kind.unlike, ORDERS[kind.order], decode))
    seeing = "images beside text: the text part"
    lines += [_line(f"`{model_type}`", seeing, "", "") for model_type in kinds.MULTIMODAL]
    return "\n".join(
        [
            "Each, against transformers in memory, with tiny random weights: logits of two "
            "sequences, of a padded batch and",
            f"token by token, greedy tokens; {', '.join(modes)}.",
            "",
            *lines,
        ]
    )


ORDERS = {"layers": "layer by layer", "chunks": "chunk by chunk", "whole": "in one piece"}
"""How a long prompt passes through the layers."""


def named() -> str | None:
    """Return a row for each model that AirLLM names; None as `bridged`."""
    kinds = _bridged_kinds()
    if kinds is None:
        return None
    checked = {kind.model_type for kind in kinds.KINDS.values()} | set(kinds.MULTIMODAL)
    lines = ["| model | `model_type` | here |", "|---|---|---|"]
    for model in NAMED:
        here = model.status
        if model.refused:
            here += f": {model.refused}"
        elif here == "bridged" and model.model_type not in checked:
            here += ", not checked"
        lines.append(_line(model.name, f"`{model.model_type}`", here))
    return "\n".join(lines)


def _bridged_kinds() -> ModuleType | None:
    has_them = importlib.util.find_spec("bridged") is not None
    return importlib.import_module("bridged") if has_them else None


SECTIONS = {"native": native, "bridged": bridged, "named": named}


def marks(section: str) -> tuple[str, str]:
    """Return what is around a section in the docs."""
    return f"<!-- {section}: written by tests -->\n\n", f"\n\n<!-- end of {section} -->"


def written(section: str, text: str) -> str:
    """Return what the docs have in a section."""
    start, end = marks(section)
    return text.split(start, 1)[1].split(end, 1)[0]


def _judge(row: Row) -> str:
    if row.judge == "transformers":
        return "transformers"
    has_makers = path_of(row.name).exists()
    return "numpy reference" + (", judged by its makers' code" if has_makers else "")


def _left_out(row: Row) -> list[tuple[str, str]]:
    return [(row.name, part) for part in row.left_out]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the sections into the docs, or print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = DOCS.read_text(encoding="utf-8")
    for section, make in SECTIONS.items():
        made = make()
        if made is None:
            continue
        start, end = marks(section)
        before, rest = text.split(start, 1)
        text = before + start + made + end + rest.split(end, 1)[1]
    if options.write:
        DOCS.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
