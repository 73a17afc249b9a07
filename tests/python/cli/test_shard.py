"""`shard`, `verify` and `cache` do what they say, in one line or one object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airllm_rs.memory import budget
from airllm_rs.memory.budget import Machine
from airllm_rs.store import making

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome

    Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


def answer(outcome: Outcome) -> dict[str, object]:
    assert outcome.code == 0, outcome.err
    content: dict[str, object] = json.loads(outcome.out)
    return content


def test_a_store_is_made_verified_listed_and_removed(cli: Cli, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = answer(cli("shard", model, store, "--compression", "8bit", "--json"))
    assert (made["scheme"], made["files_kept"]) == ("8bit", 0)
    assert made["total_bytes"] == sum(path.stat().st_size for path in store.glob("*.safetensors"))
    verified = answer(cli("verify", store, "--json"))
    assert (verified["ok"], verified["bytes"]) == (True, made["total_bytes"])
    listed = answer(cli("cache", "list", "--json"))["entries"]
    assert isinstance(listed, list)
    assert [(entry["path"], entry["kind"]) for entry in listed] == [(str(store), "store")]
    assert str(model) in cli("cache", "list").out
    assert cli("cache", "prune").code == 0
    assert answer(cli("cache", "rm", store, "--json"))["removed"] == [str(store)]
    assert not store.exists()
    assert "nothing in" in cli("cache", "list").out


def test_what_is_unfinished_is_pruned_and_what_is_not_ours_is_not_removed(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "cache" / "stores" / "x-4bit-0"
    (partial / ".airllm_rs-progress").mkdir(parents=True)
    (partial / "layers.0.safetensors").write_bytes(bytes(5000))
    listed = answer(cli("cache", "list", "--json"))["entries"]
    assert isinstance(listed, list)
    assert [entry["kind"] for entry in listed] == ["unfinished"]
    assert answer(cli("cache", "prune", "--json"))["removed"] == [str(partial)]
    assert not partial.exists()
    refused = cli("cache", "rm", model)
    assert (refused.code, model.exists()) == (1, True)
    assert refused.err.startswith(f"error: {model} is nothing that airllm-rs has made")


def test_a_corrupt_store_is_an_error_of_one_line(cli: Cli, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert cli("shard", model, store).code == 0
    path = store / "layers.1.safetensors"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    outcome = cli("verify", store)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {path}: chunk 0, ")
    assert len(outcome.err.splitlines()) == 1
    assert len(outcome.err) < 300
    found = cli("verify", store, "--json")
    told = json.loads(found.out)
    assert (found.code, told["ok"]) == (1, False)
    assert [entry["file"] for entry in told["damaged"]] == [str(path)]
    loaded = cli("run", store, "a", "--max-new-tokens=1", "--raw")
    assert loaded.code == 1
    assert "is corrupt" in loaded.err


def test_shard_mends_what_verify_complains_of(cli: Cli, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert cli("shard", model, store).code == 0
    names = ("embed_tokens", "layers.0", "layers.1", "layers.2", "norm")
    for name in names:
        (store / f"{name}.safetensors").write_bytes(b"")
    complaint = cli("verify", store).err
    assert complaint.startswith(f"error: {len(names)} of ")
    assert "others are layers.0.safetensors, layers.1.safetensors" in complaint
    assert "and 1 more; the same `airllm-rs shard` makes it again" in complaint
    assert len(complaint.splitlines()) == 1
    mended = answer(cli("shard", model, store, "--json"))
    assert mended["files_made"] == len(names)
    assert cli("verify", store).code == 0
    assert "nothing to do: it is there" in cli("shard", model, store).out


def test_what_is_interrupted_says_that_it_goes_on(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "write_files", interrupted)
    outcome = cli("shard", model, tmp_path / "store")
    assert outcome.code == 130
    assert outcome.err.endswith("\ninterrupted: the same command goes on from here\n")


def test_a_store_inside_its_checkpoint_is_refused(cli: Cli, model: Path) -> None:
    outcome = cli("shard", model, model / "store")
    assert outcome.code == 1
    assert "is inside the checkpoint: choose a place beside it" in outcome.err
    assert not (model / "store").exists()


def test_a_budget_that_nobody_named_is_told_with_its_source(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(1 << 30, 16 << 20, None, 0)
    monkeypatch.setattr(budget, "this_machine", lambda: machine)
    outcome = cli("shard", model, tmp_path / "store")
    assert outcome.code == 1
    expected = "error: --memory auto found 4MiB (of 16MiB available), which is too little to make"
    assert expected in outcome.err


def test_a_store_is_removed_once_however_often_it_is_named(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("shard", model, "store").code == 0
    removed = answer(cli("cache", "rm", "store", tmp_path / "store", "--json"))["removed"]
    assert removed == [str(tmp_path / "store")]


def test_wrong_words_are_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    outcome = cli("shard", model, tmp_path / "store", "--compression", "3bit")
    assert outcome.code == 2
    assert "--compression '3bit' does not exist: use 8bit, 4bit, 4bit-hq, nf4" in outcome.err
    outcome = cli("verify", model)
    assert outcome.code == 1
    assert "it is no shard store" in outcome.err
    outcome = cli("shard", model, tmp_path / "store", "--memory", "1MiB")
    assert outcome.code == 1
    assert "too little" in outcome.err


def test_tokens_from_a_store_are_those_of_the_checkpoint(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    stripes = tmp_path / "a", tmp_path / "b"
    assert cli("shard", model, *stripes).code == 0
    flags = ("hello", "--raw", "--json", "--max-new-tokens=8", "--temperature=0")
    expected = answer(cli("run", model, *flags))
    for verify in ("always", "first"):
        found = answer(cli("run", stripes[0], *flags, "--verify", verify))
        assert found["token_ids"] == expected["token_ids"]
