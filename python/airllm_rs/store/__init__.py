"""Shard stores: what they are made of, made once, found again."""

from airllm_rs.store.making import StoreRequest, make_store
from airllm_rs.store.manifest import Store, read_store
from airllm_rs.store.schemes import SCHEMES, check_scheme

__all__ = ["SCHEMES", "Store", "StoreRequest", "check_scheme", "make_store", "read_store"]
