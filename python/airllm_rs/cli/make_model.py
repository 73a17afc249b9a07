"""`airllm-rs bench make-model`: a synthetic checkpoint, or a real one made larger."""

from pathlib import Path
from typing import Annotated

import typer

from airllm_rs.cli.options import JsonFlag, ProgressFlag, QuietFlag
from airllm_rs.cli.output import millions, print_json, show_log
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress

_Size = int | None


def _size(text: str) -> object:
    return typer.Option(min=1, help=text, show_default=False)


def make_model(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A directory that does not exist.", show_default=False),
    ],
    layers: Annotated[_Size, _size("Decoder layers.")] = None,
    hidden: Annotated[_Size, _size("The size of hidden states.")] = None,
    intermediate: Annotated[_Size, _size("Neurons of each MLP.")] = None,
    heads: Annotated[_Size, _size("Query heads.")] = None,
    kv_heads: Annotated[_Size, _size("Key and value heads; by default as many.")] = None,
    vocab: Annotated[_Size, _size("Tokens, 256 or more.")] = None,
    head_dim: Annotated[_Size, _size("By default hidden ÷ heads.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, f16 or f32; by default bf16.")] = None,
    model_type: Annotated[
        str | None, typer.Option(help="llama, mistral, qwen2 or qwen3; by default llama.")
    ] = None,
    tie: Annotated[bool, typer.Option("--tie", help="The head is the embedding table.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the weights; by default 0.")] = None,
    widen: Annotated[
        str | None,
        typer.Option(
            metavar="SRC",
            help="Copy this checkpoint with wider MLPs that compute the same.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    progress: ProgressFlag = None,
) -> None:
    """Write a checkpoint of random weights, with a byte-level tokenizer and no end token.

    With --widen SRC --intermediate N: SRC made larger without changing what it computes.
    """
    # numpy: a tenth of a second that other commands need not spend
    from airllm_rs.benchmarks import make_model as synthetic
    from airllm_rs.benchmarks import widen as widening

    show_log(quiet=quiet)
    shape = {
        "--layers": layers,
        "--hidden": hidden,
        "--heads": heads,
        "--vocab": vocab,
    }
    others = {
        "--kv-heads": kv_heads,
        "--head-dim": head_dim,
        "--dtype": dtype,
        "--model-type": model_type,
        "--tie": tie or None,
        "--seed": seed,
    }
    if widen is not None:
        given = [flag for flag, value in {**shape, **others}.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]} is SRC's with --widen: leave it out")
        if intermediate is None:
            raise ValueError("--widen needs --intermediate")
        made = widening.widen(widen, out, intermediate, progress=choose_progress(progress))
    else:
        wanted = {**shape, "--intermediate": intermediate}
        missing = [flag for flag, value in wanted.items() if value is None]
        if missing or not (layers and hidden and intermediate and heads and vocab):
            raise ValueError(f"give {', '.join(missing)}, or --widen SRC")
        made = synthetic.make_model(
            out,
            synthetic.ModelShape(
                num_hidden_layers=layers,
                hidden_size=hidden,
                intermediate_size=intermediate,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads or heads,
                vocab_size=vocab,
                head_dim=head_dim,
                dtype=dtype or "bf16",
                model_type=model_type or "llama",
                tie_word_embeddings=tie,
            ),
            seed=seed or 0,
            progress=choose_progress(progress),
        )
    told = {
        "path": str(made.path),
        "bytes": made.total_bytes,
        "parameters": made.parameters,
        "files": made.files,
    }
    if as_json:
        print_json(told)
    else:
        plural = "s" if made.files > 1 else ""
        print(
            f"{made.path}: {millions(made.parameters)} parameters, "
            f"{format_bytes(made.total_bytes)} in {made.files} file{plural}"
        )
