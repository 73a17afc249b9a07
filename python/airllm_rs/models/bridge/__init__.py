"""Any causal language model that transformers knows, its weights resident or streamed."""

from airllm_rs.models.bridge.describing import bridge, hf_config
from airllm_rs.models.bridge.skeleton import bridged_config

__all__ = ["bridge", "bridged_config", "hf_config"]
