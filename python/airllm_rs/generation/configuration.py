"""The configuration that transformers' generation looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from airllm_rs.families.bridged import BridgedConfig
from airllm_rs.models.bridge import hf_config

if TYPE_CHECKING:
    import torch

    from airllm_rs.config import ModelConfig


def transformers_config(config: ModelConfig, dtype: torch.dtype) -> PreTrainedConfig:
    """Return the configuration as transformers parses it; a plain one of a kind it has not.

    Of a model that sees as well, it is that of the part that reads and writes.
    """
    if isinstance(config, BridgedConfig):
        return hf_config(config)
    ends = list(config.eos_token_ids)
    special = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": config.pad_token_id,
    }
    if config.model_type in CONFIG_MAPPING:
        raw = {**config.raw, "dtype": dtype}
        parsed = AutoConfig.for_model(**raw)  # type: ignore[arg-type]
        text = parsed.get_text_config(decoder=True)
        if text is not parsed:
            text.update(
                {
                    "architectures": parsed.architectures,
                    "dtype": dtype,
                    "tie_word_embeddings": config.tie_word_embeddings,
                    **special,
                }
            )
        return text
    raw = {
        "architectures": config.raw.get("architectures"),
        "dtype": dtype,
        "tie_word_embeddings": config.tie_word_embeddings,
        **special,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
    }
    plain: PreTrainedConfig = PreTrainedConfig.from_dict(raw)
    plain.model_type = config.model_type  # type: ignore[misc]
    plain.use_cache = True  # in a dictionary it would be taken for one of generation's
    return plain
