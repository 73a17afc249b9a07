"""KV caches."""

from airllm_rs.cache.kv import KvCache

__all__ = ["KvCache"]
