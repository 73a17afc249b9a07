"""Names and shapes of the tensors in the makers' checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Shapes = dict[str, tuple[int, ...]]


def shapes(config: Mapping[str, object]) -> Shapes:
    """Return the tensors of the checkpoint that ``config`` belongs to."""
    maker = _MAKERS[str(config["model_type"])]
    return maker(_Sizes(config))


class _Sizes:
    """What shapes are made of, under one name in all families."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.config = config
        self.vocab = self.first("vocab_size", "padded_vocab_size")
        self.hidden = self.first("hidden_size", "n_embd")
        self.inner = self.first("intermediate_size", "ffn_hidden_size")
        self.layers = self.first("num_hidden_layers", "num_layers", "n_layer")
        self.heads = self.first("num_attention_heads", "n_head")
        self.head_dim = self.first("head_dim", "kv_channels", default=self.hidden // self.heads)
        self.groups = self.first("num_key_value_heads", "multi_query_group_num", default=self.heads)
        self.queries = self.heads * self.head_dim
        self.keys = self.groups * self.head_dim

    def first(self, *names: str, default: int | None = None) -> int:
        found = [value for name in names if isinstance(value := self.config.get(name), int)]
        if not found:
            assert default is not None, f"none of {names} is in the configuration"
            return default
        return found[0]


def _chatglm(s: _Sizes) -> Shapes:
    tensors: Shapes = {
        "transformer.embedding.word_embeddings.weight": (s.vocab, s.hidden),
        "transformer.rotary_pos_emb.inv_freq": (s.head_dim // 4,),
        "transformer.encoder.final_layernorm.weight": (s.hidden,),
        "transformer.output_layer.weight": (s.vocab, s.hidden),
    }
    fused = s.queries + 2 * s.keys
    for n in range(s.layers):
        layer = f"transformer.encoder.layers.{n}."
        tensors |= {
            f"{layer}input_layernorm.weight": (s.hidden,),
            f"{layer}self_attention.query_key_value.weight": (fused, s.hidden),
            f"{layer}self_attention.query_key_value.bias": (fused,),
            f"{layer}self_attention.dense.weight": (s.hidden, s.queries),
            f"{layer}post_attention_layernorm.weight": (s.hidden,),
            f"{layer}mlp.dense_h_to_4h.weight": (2 * s.inner, s.hidden),
            f"{layer}mlp.dense_4h_to_h.weight": (s.hidden, s.inner),
        }
    return tensors


def _qwen(s: _Sizes) -> Shapes:
    tensors: Shapes = {
        "transformer.wte.weight": (s.vocab, s.hidden),
        "transformer.ln_f.weight": (s.hidden,),
        "lm_head.weight": (s.vocab, s.hidden),
    }
    for n in range(s.layers):
        layer = f"transformer.h.{n}."
        tensors |= {
            f"{layer}ln_1.weight": (s.hidden,),
            f"{layer}attn.c_attn.weight": (3 * s.queries, s.hidden),
            f"{layer}attn.c_attn.bias": (3 * s.queries,),
            f"{layer}attn.c_proj.weight": (s.hidden, s.queries),
            f"{layer}ln_2.weight": (s.hidden,),
            f"{layer}mlp.w1.weight": (s.inner // 2, s.hidden),
            f"{layer}mlp.w2.weight": (s.inner // 2, s.hidden),
            f"{layer}mlp.c_proj.weight": (s.hidden, s.inner // 2),
        }
    return tensors


def _internlm2(s: _Sizes) -> Shapes:
    tensors: Shapes = {
        "model.tok_embeddings.weight": (s.vocab, s.hidden),
        "model.norm.weight": (s.hidden,),
        "output.weight": (s.vocab, s.hidden),
    }
    for n in range(s.layers):
        layer = f"model.layers.{n}."
        tensors |= {
            f"{layer}attention.wqkv.weight": (s.queries + 2 * s.keys, s.hidden),
            f"{layer}attention.wo.weight": (s.hidden, s.queries),
            f"{layer}feed_forward.w1.weight": (s.inner, s.hidden),
            f"{layer}feed_forward.w3.weight": (s.inner, s.hidden),
            f"{layer}feed_forward.w2.weight": (s.hidden, s.inner),
            f"{layer}attention_norm.weight": (s.hidden,),
            f"{layer}ffn_norm.weight": (s.hidden,),
        }
        if s.config["bias"]:
            tensors |= {
                f"{layer}attention.wqkv.bias": (s.queries + 2 * s.keys,),
                f"{layer}attention.wo.bias": (s.hidden,),
            }
    return tensors


def _llama(s: _Sizes, layers: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Return Llama's tensors, with ``layers`` in place of what makes queries, keys and values."""
    tensors: Shapes = {
        "model.embed_tokens.weight": (s.vocab, s.hidden),
        "model.norm.weight": (s.hidden,),
        "lm_head.weight": (s.vocab, s.hidden),
    }
    for n in range(s.layers):
        tensors |= {
            f"model.layers.{n}.{name}": shape
            for name, shape in {
                **layers,
                "self_attn.o_proj.weight": (s.hidden, s.queries),
                "mlp.gate_proj.weight": (s.inner, s.hidden),
                "mlp.up_proj.weight": (s.inner, s.hidden),
                "mlp.down_proj.weight": (s.hidden, s.inner),
            }.items()
        }
    return tensors


def _norms(s: _Sizes, *names: str) -> Shapes:
    return {f"{name}.weight": (s.hidden,) for name in names}


def _separate(s: _Sizes) -> Shapes:
    return {
        "self_attn.q_proj.weight": (s.queries, s.hidden),
        "self_attn.k_proj.weight": (s.keys, s.hidden),
        "self_attn.v_proj.weight": (s.keys, s.hidden),
    }


def _biases(s: _Sizes) -> Shapes:
    return {
        "self_attn.q_proj.bias": (s.queries,),
        "self_attn.k_proj.bias": (s.keys,),
        "self_attn.v_proj.bias": (s.keys,),
    }


def _baichuan(s: _Sizes) -> Shapes:
    layers = {
        **_norms(s, "input_layernorm", "post_attention_layernorm"),
        "self_attn.W_pack.weight": (3 * s.hidden, s.hidden),
    }
    if s.config["architectures"] == ["BaiChuanForCausalLM"]:
        layers["self_attn.rotary_emb.inv_freq"] = (s.head_dim // 2,)
    return _llama(s, layers)


def _internlm(s: _Sizes) -> Shapes:
    layers = _norms(s, "input_layernorm", "post_attention_layernorm") | _separate(s)
    if s.config["bias"]:
        layers |= _biases(s) | {"self_attn.o_proj.bias": (s.hidden,)}
    return _llama(s, layers)


def _internlm3(s: _Sizes) -> Shapes:
    layers = _norms(s, "input_layernorm", "post_attention_layernorm") | _separate(s)
    if s.config["qkv_bias"]:
        layers |= _biases(s)
    return _llama(s, layers)


def _yi(s: _Sizes) -> Shapes:
    return _llama(s, _norms(s, "ln1", "ln2") | _separate(s))


_MAKERS = {
    "chatglm": _chatglm,
    "qwen": _qwen,
    "baichuan": _baichuan,
    "internlm": _internlm,
    "internlm2": _internlm2,
    "internlm3": _internlm3,
    "Yi": _yi,
}
