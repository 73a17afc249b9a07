"""`airllm-rs doctor`: every line is fine or says what to change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airllm_rs.cli import findings
from airllm_rs.cli.findings import Finding, examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import Outcome


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


def by_name(path: Path | None, root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(path, root)}


def test_json_has_everything(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    done = cli("doctor", tmp_path, "--json")
    found = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert {probe["engine"] for probe in found["engines"]} >= {"uring", "direct", "buffered"}
    assert set(found) == {
        "engines", "direct_io", "file_system", "huge_pages", "huge_page_share", "memlock_bytes",
        "cgroup", "memory", "cpu", "gpus", "device", "versions", "cache", "findings",
    }  # fmt: skip
    assert found["versions"]["build_profile"] in ("debug", "release")
    assert found["memory"]["auto_bytes"] <= found["memory"]["total_bytes"]


def test_every_line_is_fine_or_has_a_hint(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    found = json.loads(cli("doctor", tmp_path, "--json").out)["findings"]
    assert all(finding["ok"] == (finding["hint"] is None) for finding in found)
    shown = cli("doctor", tmp_path).out
    assert shown.count("→") == sum(not finding["ok"] for finding in found)
    assert len(shown.splitlines()) == len(found) + shown.count("→")


def test_nothing_is_left_behind(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    assert cli("doctor").code == 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_path_that_is_not_there_is_an_error(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    done = cli("doctor", tmp_path / "none")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {tmp_path / 'none'}: No such file or directory\n"


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "other.safetensors").mkdir()
    assert by_name(tmp_path, Path("/"))["engines"].facts


@pytest.mark.parametrize("chosen", ["always", "madvise", "never"])
def test_huge_pages_that_are_off_have_a_hint(tmp_path: Path, chosen: str) -> None:
    setting = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
    setting.parent.mkdir(parents=True)
    setting.write_text("always madvise never\n".replace(chosen, f"[{chosen}]"))
    finding = by_name(tmp_path, tmp_path)["huge_pages"]
    assert finding.facts == chosen
    assert ("tee /sys/kernel/mm" in str(finding.hint)) == (chosen == "never")
    assert finding.ok == (chosen != "never")


def test_huge_pages_are_measured(tmp_path: Path) -> None:
    found = by_name(tmp_path, Path("/"))
    share, setting = found["huge_page_share"], found["huge_pages"]
    assert isinstance(share.facts, float)
    assert 0 <= share.facts <= 1
    assert share.text == f"{share.facts:.0%} of an arena is in huge pages"
    if setting.facts == "never":
        assert share.facts == 0
    elif setting.facts is not None:
        assert share.facts > 0


@pytest.mark.parametrize(("share", "ok"), [(1.0, True), (0.95, True), (0.5, False), (0.0, False)])
def test_an_arena_in_small_pages_has_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, ok: bool
) -> None:
    setting = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
    setting.parent.mkdir(parents=True)
    monkeypatch.setattr(findings, "huge_page_share", lambda: share)
    setting.write_text("always [madvise] never\n")
    finding = by_name(tmp_path, tmp_path)["huge_page_share"]
    assert (finding.facts, finding.ok) == (share, ok)
    assert ok or "compact_memory" in str(finding.hint)
    # one hint is enough
    setting.write_text("always madvise [never]\n")
    assert by_name(tmp_path, tmp_path)["huge_page_share"].ok


def test_gpus_are_found_by_their_drivers(tmp_path: Path) -> None:
    assert by_name(tmp_path, tmp_path)["gpus"].facts == []
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   0\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    finding = by_name(tmp_path, tmp_path)["gpus"]
    assert finding.facts == ["NVIDIA H100", "AMD GPU"]
    assert "only the CPU executor exists" in finding.text


@pytest.mark.parametrize(
    ("line", "simd"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16", "avx2 avx512f avx512_bf16 amx_bf16"),
        ("Features\t: fp asimd", "neon"),
        ("flags\t\t: fpu", ""),
    ],
)
def test_simd_is_found(tmp_path: Path, line: str, simd: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"model name\t: Some CPU\n{line}\n")
    facts = by_name(tmp_path, tmp_path)["cpu"].facts
    assert isinstance(facts, dict)
    assert (facts["name"], facts["simd"]) == ("Some CPU", simd.split())


@pytest.mark.parametrize(
    ("kind", "source", "hint"),
    [("ext4", "/dev/sda1", None), ("tmpfs", "tmpfs", "takes memory"), ("nfs4", "nas:/", "network")],
)
def test_file_systems_that_are_slow_have_a_hint(
    tmp_path: Path, kind: str, source: str, hint: str | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    mounts = [
        "1 0 8:1 / / rw - ext4 /dev/root rw",
        f"2 1 8:2 / {str(tmp_path).replace(' ', chr(92) + '040')} rw shared:1 - {kind} {source} rw",
        "3 1 8:3 / /elsewhere rw - xfs /dev/sdb rw",
    ]
    (tmp_path / "proc/self/mountinfo").write_text("\n".join(mounts))
    finding = by_name(tmp_path, tmp_path)["file_system"]
    assert f"{kind} on {source} at {tmp_path}" in finding.text
    assert finding.hint is None if hint is None else hint in str(finding.hint)
