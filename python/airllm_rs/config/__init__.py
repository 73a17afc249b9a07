"""The configuration of a model: config.json, parsed and checked."""

from airllm_rs.config.keys import Keys, token_ids
from airllm_rs.config.model_config import FULL, SLIDING, ModelConfig
from airllm_rs.config.parsing import KEYS, ConfigRules, parse_config

__all__ = [
    "FULL",
    "KEYS",
    "SLIDING",
    "ConfigRules",
    "Keys",
    "ModelConfig",
    "parse_config",
    "token_ids",
]
