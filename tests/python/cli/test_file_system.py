"""`doctor` names what models lie on, down to the disks, and what to expect of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airllm_rs.cli.file_system import FileSystem, file_system
from airllm_rs.cli.place import description, hints

if TYPE_CHECKING:
    from pathlib import Path

SATA = "pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda"
NVME = "pci0000:00/nvme/nvme0/nvme0n1"
USB = "pci0000:00/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"


class Machine:
    """A tree that looks like /proc, /sys and /dev."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def device(
        self, where: str, number: str, *, below: tuple[Path, ...] = (), **files: str
    ) -> Path:
        """Make a block device; ``files`` are what it says, ``__`` in their names is a slash."""
        path = self.root / "sys/devices" / where
        path.mkdir(parents=True)
        for folder in ("sys/dev/block", "sys/class/block"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "sys/dev/block" / number).symlink_to(path)
        (self.root / "sys/class/block" / path.name).symlink_to(path)
        for name, text in files.items():
            self.write(f"sys/devices/{where}/{name.replace('__', '/')}", text)
        for member in below:
            (path / "slaves").mkdir(exist_ok=True)
            (path / "slaves" / member.name).symlink_to(member)
        return path

    def mounted(self, kind: str, source: str, number: str, options: str = "rw") -> FileSystem:
        """Return what is found where ``source`` is mounted."""
        lines = [
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
            f"2 1 {number} / {self.root} rw,relatime shared:1 - {kind} {source} {options}",
        ]
        self.write("proc/self/mountinfo", "\n".join(lines))
        return file_system(self.root, self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def said(found: FileSystem) -> str:
    return "; ".join(hints(found))


def test_a_local_ssd_is_named_and_has_no_hint(machine: Machine) -> None:
    disk = machine.device(NVME, "259:0", queue__rotational="0", device__model="Fast 1TB")
    machine.device(f"{NVME}/nvme0n1p2", "259:2", partition="2")
    found = machine.mounted("ext4", "/dev/nvme0n1p2", "259:2")
    assert found.device is not None
    assert [member.name for member in found.device.disks] == [disk.name]
    assert description(found, "5GiB").endswith("5GiB free; nvme0n1p2 (Fast 1TB)")
    assert hints(found) == []


def test_a_spinning_disk_has_a_number(machine: Machine) -> None:
    machine.device(SATA, "8:0", queue__rotational="1")
    found = machine.mounted("xfs", "/dev/sda", "8:0")
    assert description(found, "5GiB").endswith("; sda, rotating")
    assert "0.3 GB/s" in said(found)


def test_a_virtual_disk_does_not_know_whether_it_spins(machine: Machine) -> None:
    machine.device("pci0000:00/virtio1/block/vda", "254:0", queue__rotational="1")
    found = machine.mounted("ext4", "/dev/vda", "254:0")
    assert found.device is not None
    assert found.device.disks[0].is_rotational is None
    assert hints(found) == []


def test_a_usb_disk_is_as_fast_as_its_port(machine: Machine) -> None:
    machine.device(USB, "8:16", queue__rotational="0")
    machine.write("sys/devices/pci0000:00/usb2/speed", "20000")
    assert "a disk on USB is slow" in said(machine.mounted("ext4", "/dev/sdb", "8:16"))
    machine.write("sys/devices/pci0000:00/usb2/2-1/speed", "5000")
    found = machine.mounted("ext4", "/dev/sdb", "8:16")
    assert "at most 0.5 GB/s" in said(found)
    assert description(found, "5GiB").endswith("; sdb, USB")


@pytest.mark.parametrize(
    "where",
    ["virtual/block/nbd0", "platform/host2/session1/target2:0:0/2:0:0:0/block/sdc",
     "virtual/nvme-fabrics/ctl/nvme1/nvme1n1"],
)  # fmt: skip
def test_a_disk_over_the_network_is_named(where: str, machine: Machine) -> None:
    name = machine.device(where, "43:0", queue__rotational="0").name
    found = machine.mounted("ext4", f"/dev/{name}", "43:0")
    assert description(found, "5GiB").endswith(f"; {name}, over the network")
    assert "over the network" in said(found)


def test_luks_is_found_below_lvm_and_its_disks_below_a_raid(machine: Machine) -> None:
    disks = [
        machine.device(SATA, "8:0", queue__rotational="0", device__model="Alpha"),
        machine.device(SATA.replace("sda", "sdb"), "8:16", queue__rotational="1"),
    ]
    parts = [
        machine.device(
            f"{disk.relative_to(machine.root / 'sys/devices')}/{disk.name}1",
            f"8:{number}1",
            partition="1",
        )
        for number, disk in enumerate(disks)
    ]
    raid = machine.device("virtual/block/md0", "9:0", md__level="raid1", below=tuple(parts))
    crypt = machine.device(
        "virtual/block/dm-0", "252:0", dm__uuid="CRYPT-LUKS2-0a1b-secret", below=(raid,)
    )
    machine.device("virtual/block/dm-1", "252:1", dm__uuid="LVM-abc", below=(crypt,))
    found = machine.mounted("ext4", "/dev/mapper/vg-models", "252:1")
    wanted = "; dm-1 (LVM over LUKS over raid1) on sda (Alpha) and sdb, rotating"
    assert description(found, "5GiB").endswith(wanted)
    assert "LUKS" in said(found)
    assert "0.3 GB/s" in said(found)


def test_devices_in_a_ring_end(machine: Machine) -> None:
    first = machine.device("virtual/block/dm-0", "252:0", dm__uuid="LVM-a")
    second = machine.device("virtual/block/dm-1", "252:1", dm__uuid="LVM-b", below=(first,))
    (first / "slaves").mkdir()
    (first / "slaves/dm-1").symlink_to(second)
    found = machine.mounted("ext4", "/dev/dm-1", "252:1")
    assert found.device is not None
    assert found.device.layers == ("LVM",)


@pytest.mark.parametrize("options", ["rw,compress=zstd:3,ssd", "rw,compress-force=lzo", "rw,ssd"])
def test_btrfs_is_found_by_its_source_and_compression_named(options: str, machine: Machine) -> None:
    crypt = machine.device(
        "virtual/block/dm-0", "252:0", dm__uuid="CRYPT-LUKS2-x",
        below=(machine.device(NVME, "259:0", queue__rotational="0"),),
    )  # fmt: skip
    mapper = machine.root / "dev/mapper"
    mapper.mkdir(parents=True)
    (machine.root / "dev/dm-0").touch()
    (mapper / "root").symlink_to("../dm-0")
    found = machine.mounted("btrfs", "/dev/mapper/root", "0:31", options)
    assert found.device is not None
    assert found.device.name == crypt.name
    assert found.device.layers == ("LUKS",)
    assert ("decompresses" in said(found)) == ("compress" in options)
    assert ("compressed" in description(found, "5GiB")) == ("compress" in options)


def test_zfs_is_named_with_its_dataset(machine: Machine) -> None:
    found = machine.mounted("zfs", "tank/models", "0:40")
    assert found.device is None
    assert "primarycache=metadata tank/models" in said(found)


@pytest.mark.parametrize("kind", ["9p", "drvfs"])
def test_a_windows_disk_is_told_from_another_over_9p(kind: str, machine: Machine) -> None:
    machine.write("proc/version", "Linux version 6.8.0-generic")
    assert "WSL" not in said(machine.mounted(kind, "C:\\134", "0:50"))
    machine.write("proc/version", "Linux version 5.15.153.1-microsoft-standard-WSL2")
    found = machine.mounted(kind, "C:\\134", "0:50")
    assert found.source == "C:\\"
    assert "Windows disk is slow under WSL" in said(found)


def test_the_disk_of_an_overlay_is_that_of_its_upper_directory(machine: Machine) -> None:
    machine.device(f"{SATA}/sda1", "8:1", partition="1")
    machine.write(f"sys/devices/{SATA}/queue/rotational", "1")
    options = "rw,lowerdir=/lower,upperdir=/upper/diff,workdir=/work"
    # of a container it is outside
    assert machine.mounted("overlay", "overlay", "0:60", options).device is None
    (machine.root / "upper/diff").mkdir(parents=True)
    found = machine.mounted("overlay", "overlay", "0:60", options)
    assert found.device is not None
    assert found.device.name == "sda1"
    assert "rotating" in said(found)


def test_an_upper_directory_that_cannot_be_looked_at_is_outside(machine: Machine) -> None:
    hidden = f"rw,upperdir=/{'upper' * 60}"  # too long a name, which no user may look at
    assert machine.mounted("overlay", "overlay", "0:60", hidden).device is None


def test_without_proc_nothing_is_claimed(tmp_path: Path) -> None:
    found = file_system(tmp_path, tmp_path)
    assert (found.kind, found.device, hints(found)) == ("unknown", None, [])
