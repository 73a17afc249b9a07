"""A budget comes from the user, the tightest cgroup, or what is available."""

from pathlib import Path

import pytest

from airllm_rs.memory.baseline import DEFAULT_BYTES, baseline_bytes, installed, record_baseline
from airllm_rs.memory.budget import Budget, Machine, choose_budget, this_machine
from airllm_rs.stats.cgroup import MemoryCgroup, cgroup_bytes, memory_cgroup

GIB = 1 << 30
MIB = 1 << 20
NO_LIMIT = "9223372036854771712"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"


def test_the_tightest_level_of_version_2_counts(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/user/job/step\n",
        "proc/self/mountinfo": V2_MOUNT.format(root="/"),
        "sys/fs/cgroup/user/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/user/job/memory.max": f"{3 * GIB}\n",
        "sys/fs/cgroup/user/job/memory.current": "1000\n",
        "sys/fs/cgroup/user/job/memory.stat": "anon 600\nfile 400\n",
        "sys/fs/cgroup/user/job/memory.events": "low 0\nmax 7\noom 0\n",
        "sys/fs/cgroup/user/job/step/memory.max": "max\n",
        "sys/fs/cgroup/user/job/step/memory.high": "max\n",
        "sys/fs/cgroup/user/job/step/memory.current": "500\n",
    })  # fmt: skip
    job = root / "sys/fs/cgroup/user/job"
    assert memory_cgroup(root) == MemoryCgroup(job, 3 * GIB, 1000, 600, 7)
    assert cgroup_bytes(root) == 500


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2_MOUNT.format(root="/"),
        "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/memory.high": f"{2 * GIB}\n",
    })  # fmt: skip
    found = memory_cgroup(root)
    assert found is not None
    assert found.limit_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("mounted", "directory"), [("/", "docker/abc"), ("/docker/abc", ""), ("/docker", "abc")]
)
def test_version_1_is_found_however_it_is_mounted(
    tmp_path: Path, mounted: str, directory: str
) -> None:
    own = f"sys/fs/cgroup/memory/{directory}/"
    root = write(tmp_path, {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n",
        "proc/self/mountinfo": V1_MOUNT.format(root=mounted).replace("rw,memory", "rw,cpu,memory"),
        f"{own}memory.limit_in_bytes": f"{3 * GIB}\n",
        f"{own}memory.usage_in_bytes": "123\n",
        f"{own}memory.failcnt": "2\n",
        f"{own}memory.stat": "rss 5\ntotal_rss 50\n",
    })  # fmt: skip
    found = memory_cgroup(root)
    assert found is not None
    assert (found.limit_bytes, found.used_bytes, found.anon_bytes) == (3 * GIB, 123, 50)
    assert found.failures == 2
    assert cgroup_bytes(root) == 123


def test_a_path_of_another_namespace_means_what_is_mounted(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "proc/self/cgroup": "0::/../../elsewhere\n",
        "proc/self/mountinfo": V2_MOUNT.format(root="/"),
        "sys/fs/cgroup/memory.max": f"{GIB}\n",
    })  # fmt: skip
    found = memory_cgroup(root)
    assert found is not None
    assert found.limit_bytes == GIB


def test_no_limit_is_no_cgroup(tmp_path: Path) -> None:
    assert memory_cgroup(tmp_path) is None
    assert cgroup_bytes(tmp_path) == 0
    root = write(tmp_path, {
        "proc/self/cgroup": "4:memory:/\n",
        "proc/self/mountinfo": V1_MOUNT.format(root="/"),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT}\n",
    })  # fmt: skip
    assert memory_cgroup(root) is None


def group(limit: int, anon: int = 0) -> MemoryCgroup:
    return MemoryCgroup(Path("/sys/fs/cgroup"), limit, anon, anon, 0)


@pytest.mark.parametrize(
    ("machine", "nbytes"),
    [
        (Machine(24 * GIB, 20 * GIB, None, GIB), 20 * GIB),
        (Machine(24 * GIB, 20 * GIB, group(3 * GIB, GIB), GIB), 2 * GIB),
        (Machine(24 * GIB, GIB, group(3 * GIB, GIB), GIB), GIB),
        (Machine(24 * GIB, 20 * GIB, group(3 * GIB, 4 * GIB), GIB), 0),
    ],
)
def test_what_is_free_ends_at_the_cgroups_limit(machine: Machine, nbytes: int) -> None:
    assert machine.free_bytes == nbytes


@pytest.mark.parametrize(
    ("machine", "nbytes"),
    [
        (Machine(24 * GIB, 20 * GIB, None, 0), 15 * GIB),
        (Machine(8 * GIB, 6 * GIB, None, 0), 4 * GIB),
        (Machine(4 * GIB, 2 * GIB, None, 0), GIB // 2),
        (Machine(24 * GIB, 20 * GIB, group(3 * GIB), 0), 3 * GIB - 24 * MIB),
        (Machine(24 * GIB, 20 * GIB, group(GIB), 0), GIB - 16 * MIB),
        (Machine(24 * GIB, 20 * GIB, group(3 * GIB, GIB), GIB // 4), 9 * GIB // 4 - 24 * MIB),
        (Machine(24 * GIB, 8 * GIB, group(16 * GIB), 0), 6 * GIB),
    ],
)
def test_auto_takes_the_limit_or_leaves_some_to_others(machine: Machine, nbytes: int) -> None:
    found = choose_budget("auto", machine)
    assert found.nbytes == nbytes
    assert "--memory" in str(found)
    assert "\n" not in str(found)


def test_what_is_asked_is_taken() -> None:
    machine = Machine(20 * GIB, 10 * GIB, None, 0)
    assert choose_budget(3 * GIB, machine) == Budget(3 * GIB, "as asked")
    assert choose_budget("3GiB", machine).nbytes == 3 * GIB
    assert choose_budget("50%", machine).nbytes == 10 * GIB
    limited = Machine(20 * GIB, 10 * GIB, group(4 * GIB), 0)
    assert choose_budget("50%", limited) == Budget(2 * GIB, "50% of 4GiB")
    with pytest.raises(ValueError, match="memory='lots'"):
        choose_budget("lots", machine)


def test_this_machine_has_memory() -> None:
    machine = this_machine()
    assert 0 < machine.available_bytes <= machine.total_bytes
    assert choose_budget("auto").nbytes > 0


def test_meminfo_may_be_absent(tmp_path: Path) -> None:
    assert this_machine(tmp_path) == Machine(0, 0, None, 0)


def test_a_baseline_is_remembered_for_what_is_installed(tmp_path: Path) -> None:
    assert baseline_bytes(tmp_path) == DEFAULT_BYTES
    for nbytes in (5, 900, 10, 11, 12, 13):
        record_baseline(nbytes, tmp_path)
    assert baseline_bytes(tmp_path) == 900
    record_baseline(14, tmp_path)
    assert baseline_bytes(tmp_path) == 14, "old measurements are forgotten"
    assert "torch 2" in installed()
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_broken_measurement_is_no_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "baseline.json").write_text(text, encoding="utf-8")
    assert baseline_bytes(tmp_path) == DEFAULT_BYTES
    record_baseline(7, tmp_path)
    assert baseline_bytes(tmp_path) == 7


def test_a_baseline_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    record_baseline(7, tmp_path / "file")
