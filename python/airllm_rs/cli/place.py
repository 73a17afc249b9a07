"""What `doctor` says about the place of models: its file system, its disks, what to expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.cli.block_device import BlockDevice, Disk
    from airllm_rs.cli.file_system import FileSystem

_IN_MEMORY = ("tmpfs", "ramfs")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "lustre", "glusterfs", "gpfs")


def description(found: FileSystem, free: str) -> str:
    """Return one line that names the file system and everything below it."""
    text = f"{found.kind} on {found.source} at {found.mount}, {free} free"
    if found.is_compressed:
        text += ", compressed"
    device = found.device
    if device is None:
        return text
    text += f"; {device.name}"
    plain = [_named(disk) for disk in device.disks]
    if not device.layers and len(device.disks) == 1:
        # a partition, or the disk itself
        about = plain[0].removeprefix(device.disks[0].name)
        return text + about
    return f"{text} ({' over '.join(device.layers)}) on {' and '.join(plain)}"


def hints(found: FileSystem) -> list[str]:
    """Return what to expect of the file system and of what is below it, and what to change."""
    said = _of_kind(found)
    below = [] if found.device is None else [*_of_device(found.device)]
    return [*([] if said is None else [said]), *below]


def _of_kind(found: FileSystem) -> str | None:
    if found.is_windows:
        return "a Windows disk is slow under WSL: put models in the Linux file system, as below ~"
    if found.kind in _IN_MEMORY:
        return "what lies there takes memory itself: put models on a disk"
    if found.kind in _REMOTE or found.kind.startswith("fuse"):
        return "a file system over the network or in user space is slow: put models on a local disk"
    if found.kind == "zfs":
        return (
            "ZFS reads through its own cache, which takes memory and CPU time: "
            f"zfs set primarycache=metadata {found.source}, or use ext4 or xfs"
        )
    if found.is_compressed:
        return (
            "compressed btrfs has no direct reads, the CPU decompresses them: "
            "btrfs property set DIRECTORY compression none, before models are copied there"
        )
    return None


def _of_device(device: BlockDevice) -> Iterator[str]:
    if "LUKS" in device.layers:
        yield "the CPU decrypts what LUKS reads: `cryptsetup benchmark` shows the limit"
    rotating = [disk for disk in device.disks if disk.is_rotational]
    if rotating:
        # USB or the network would only make it slower
        yield "a rotating disk reads at most 0.3 GB/s: put models on an SSD"
        return
    speeds = [disk.usb_gbps for disk in device.disks if disk.is_usb and disk.usb_gbps is not None]
    if speeds:
        yield f"this USB port carries at most {min(speeds):.2g} GB/s: put models on an internal SSD"
    elif any(disk.is_usb for disk in device.disks):
        yield "a disk on USB is slow: put models on an internal SSD"
    if any(disk.is_network for disk in device.disks):
        yield "a disk over the network reads 0.12 GB/s per Gbit/s at most: put models elsewhere"


def _named(disk: Disk) -> str:
    words = f"{disk.name} ({disk.model})" if disk.model else disk.name
    words += ", rotating" if disk.is_rotational else ""
    words += ", USB" if disk.is_usb else ""
    return words + (", over the network" if disk.is_network else "")
