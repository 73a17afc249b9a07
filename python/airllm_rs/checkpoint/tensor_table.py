"""What holds tensors by name: files of safetensors, parsed by the extension, or of GGUF."""

from __future__ import annotations

from typing import Protocol


class TensorTable(Protocol):
    """Names of tensors, and where their bytes are; ``_core.Checkpoint`` is one."""

    @property
    def files(self) -> list[str]:
        """Absolute paths."""

    @property
    def metadata(self) -> dict[str, str]:
        """What the files say beside their tensors."""

    def names(self) -> list[str]:
        """Return the names of all tensors."""

    def tensor(self, name: str) -> tuple[str, tuple[int, ...], int, int, int]:
        """Return (dtype code, shape, index into ``files``, offset in the file, nbytes).

        Raises:
            KeyError: if there is no such tensor.
        """

    def __contains__(self, name: str, /) -> bool: ...
