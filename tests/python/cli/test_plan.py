"""`airllm-rs plan`: what a budget is spent on, for this machine or another."""

from __future__ import annotations

import json
import re
from inspect import signature
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command

from airllm_rs.auto import opening
from airllm_rs.cli.application import app
from airllm_rs.cli.options import load_options
from airllm_rs.stats import ProcessMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


def test_the_smallest_budget_that_is_named_works(
    cli: Callable[..., Outcome], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the process of the tests grows from one command to the next
    monkeypatch.setattr(opening, "process_memory", ProcessMemory)
    refused = cli("plan", model, "--memory=10MiB")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: --memory 10MiB is too little")
    assert refused.err.count("\n") == 1
    smallest = re.findall(r"[\d.]+MiB", refused.err)[-1]
    assert cli("plan", model, f"--memory={smallest}").code == 0


def test_the_smallest_cap_that_is_named_works(cli: Callable[..., Outcome], model: Path) -> None:
    refused = cli("plan", model, "--weights-memory=1KiB")
    assert refused.code == 1
    smallest = re.findall(r"[\d.]+[MK]iB", refused.err)[-1]
    done = cli("plan", model, f"--weights-memory={smallest}", "--json")
    found = json.loads(done.out)
    assert found["streamed_bytes_per_sweep"] > 0
    assert found["predicted"]["bytes_per_sweep"] == found["streamed_bytes_per_sweep"]


def test_json_says_when_nothing_works(cli: Callable[..., Outcome], model: Path) -> None:
    refused = cli("plan", model, "--memory=10MiB", "--json")
    found = json.loads(refused.out)
    assert refused.code == 1
    assert found["feasible"] is False
    assert found["smallest_bytes"] > found["budget_bytes"] == 10 << 20
    assert refused.err.startswith("error: ")
    works = cli("plan", model, f"--memory={found['smallest_bytes']}", "--json")
    assert json.loads(works.out)["feasible"] is True


def test_json_has_the_keys_of_the_surface(cli: Callable[..., Outcome], model: Path) -> None:
    done = cli("plan", model, "--json", "--memory=2GiB", "--context=100")
    found = json.loads(done.out)
    assert done.err == ""
    assert set(found) >= {
        "feasible", "smallest_bytes", "kv_bytes", "max_concurrent_tokens", "predicted",
        "budget_bytes", "resident_bytes", "ring_bytes", "streamed_bytes_per_sweep",
    }  # fmt: skip
    assert set(found["predicted"]) >= {"bytes_per_sweep", "s_per_token", "limited_by"}
    assert (found["budget_bytes"], found["context"]) == (2 * GIB, 100)


def test_another_machine_has_other_memory(cli: Callable[..., Outcome], model: Path) -> None:
    for ram, budget in ((6, 4), (16, 12)):
        done = cli("plan", model, "--json", f"--ram={ram}GiB")
        assert json.loads(done.out)["budget_bytes"] == budget * GIB
    half = cli("plan", model, "--json", "--ram=16GiB", "--memory=50%")
    assert json.loads(half.out)["budget_bytes"] == 8 * GIB


def test_a_faster_disk_makes_faster_tokens(cli: Callable[..., Outcome], model: Path) -> None:
    slow, fast = (
        json.loads(cli("plan", model, "--json", "--weights-memory=3MiB", f"--disk-gbps={rate}").out)
        for rate in (0.5, 1)
    )
    predicted = [found["predicted"] for found in (slow, fast)]
    assert [found["disk_source"] for found in predicted] == ["given", "given"]
    # computing what arrives last overlaps with nothing
    ratio = predicted[0]["s_per_token"] / predicted[1]["s_per_token"]
    assert ratio == pytest.approx(2, rel=0.05)


def test_what_was_measured_is_used_and_named(cli: Callable[..., Outcome], model: Path) -> None:
    streamed = ("--weights-memory=3MiB",)
    known = json.loads(cli("plan", model, "--json", *streamed).out)["predicted"]
    assert (known["disk_source"], known["memory_source"]) == ("assumed", "assumed")
    shown = cli("plan", model, *streamed).out
    assert "2 GB/s, assumed; --disk-gbps changes it" in shown
    assert "30 GB/s, assumed" in shown
    run = cli("run", model, "hello", "--max-new-tokens=8", "--json", *streamed)
    assert run.code == 0
    known = json.loads(cli("plan", model, "--json", *streamed).out)["predicted"]
    assert known["memory_source"] == "measured"
    assert f"{known['memory_gbps']:.3g} GB/s, measured" in cli("plan", model, *streamed).out
    # this machine says nothing about another
    other = json.loads(cli("plan", model, "--json", "--ram=8GiB", *streamed).out)["predicted"]
    assert other["memory_source"] == "assumed"


def test_people_see_the_parts(cli: Callable[..., Outcome], model: Path) -> None:
    shown = cli("plan", model, "--memory=2GiB", "--weights-memory=3MiB").out
    for part in ("KV cache", "ring", "resident", "streamed", "sweep", "disk", "--memory"):
        assert part in shown


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--memory=3Gix", "--memory '3Gix'"),
        ("--memory=3", "--memory '3' is 3 bytes: give a unit, e.g. '3GiB'"),
        ("--memory=0%", "--memory '0%'"),
        ("--ram=no", "--ram 'no'"),
        ("--weights-memory=-1", "--weights-memory '-1'"),
        ("--context=0", "--context is 0"),
        ("--max-num-seqs=0", "--max-num-seqs is 0"),
        ("--engine=fast", "--engine 'fast'"),
        ("--device=cuda", "only the CPU executor exists"),
        ("--kv-cache-dtype=int8", "--kv-cache-dtype 'int8' is not available"),
        ("--draft=prompt-lookup", "--draft 'prompt-lookup' is not available"),
        ("--device-memory=4GiB", "--device-memory '4GiB' is not available"),
        ("--dtype=int8", "--dtype 'int8' is not available"),
        ("--throttle-gbps=0", "--throttle-gbps is 0"),
        ("--latency-us=-1", "--latency-us is -1"),
        ("--disk-gbps=0", "--disk-gbps is 0"),
        ("--config-overrides=[1]", "--config-overrides '[1]'"),
        ("--config-overrides={", "is not JSON"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    cli: Callable[..., Outcome], model: Path, option: str, said: str
) -> None:
    done = cli("plan", model, option)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_an_override_of_an_unknown_key_is_refused(cli: Callable[..., Outcome], model: Path) -> None:
    done = cli("plan", model, '--config-overrides={"rope": 1}')
    assert done.code == 1
    assert done.err.startswith("error: --config-overrides: 'rope' is not read")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_every_option_of_loading_is_a_flag(command: str) -> None:
    group = get_command(app)
    flags = {
        flag
        for parameter in group.commands[command].params  # type: ignore[attr-defined]
        for flag in parameter.opts
    }
    assert flags >= {f"--{name.replace('_', '-')}" for name in signature(load_options).parameters}
    assert flags >= {
        "--memory", "--device-memory", "--weights-memory", "--context", "--max-num-seqs",
        "--compression", "--kv-cache-dtype", "--draft", "--device", "--engine", "--verify",
        "--config-overrides", "--throttle-gbps", "--latency-us",
    }  # fmt: skip
