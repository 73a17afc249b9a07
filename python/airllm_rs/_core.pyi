"""The Rust extension: bytes, threads, kernels. It never sees a tensor."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, TypedDict, final, type_check_only

__all__ = [
    "AirLLMError",
    "Arena",
    "Checkpoint",
    "CheckpointChanged",
    "CheckpointError",
    "Layout",
    "Lease",
    "LeaseHeld",
    "NotScheduled",
    "Readahead",
    "Weight",
    "WorkerPanicked",
    "__build_profile__",
    "__version__",
    "attend",
    "bench_io",
    "dequantize_into",
    "gather_rows",
    "linear",
    "probe_engines",
    "quantize",
    "read_manifest",
    "repack",
    "simd_tier",
    "verify_store",
    "write_store",
]

__version__: Final[str]
__build_profile__: Final[Literal["debug", "release"]]

class AirLLMError(Exception):
    """What airllm_rs has to say, where no builtin exception says it."""

class CheckpointError(AirLLMError):
    """A checkpoint that is not what it claims to be; names file and offset."""

class CheckpointChanged(CheckpointError):
    """A file of the checkpoint was changed while it was read."""

class NotScheduled(AirLLMError):
    """A unit was taken that was neither scheduled nor demanded."""

class LeaseHeld(AirLLMError):
    """Leases are in the way; names their units."""

class WorkerPanicked(AirLLMError):
    """A thread of the extension failed in a way that it must not."""

@final
class Checkpoint:
    """The tensors of one safetensors file or of an index of several. Headers only."""

    @staticmethod
    def open(path: str | PathLike[str]) -> Checkpoint:
        """Parse a ``.safetensors`` file, an index, or a directory with ``model.safetensors``.

        Of a shard store its manifest says which files there are, in which directories.

        Raises:
            CheckpointError: naming file and offset, for what contradicts itself or the files.
            OSError: if a file cannot be read.
        """

    @staticmethod
    def open_files(paths: Sequence[str | PathLike[str]]) -> Checkpoint:
        """Parse several ``.safetensors`` files without an index, which share no names.

        Raises:
            CheckpointError: naming file and offset, for what contradicts itself or another file.
            OSError: if a file cannot be read.
        """

    @property
    def files(self) -> list[str]:
        """Absolute paths."""

    @property
    def metadata(self) -> dict[str, str]:
        """What the files say beside their tensors."""

    def names(self) -> list[str]:
        """Return the names of all tensors, by file and offset."""

    def tensor(self, name: str) -> tuple[str, tuple[int, ...], int, int, int]:
        """Return (dtype code, shape, index into ``files``, offset in the file, nbytes).

        Raises:
            KeyError: if there is no such tensor.
        """

    def __contains__(self, name: str, /) -> bool: ...
    def __len__(self) -> int: ...

@type_check_only
class _Device(TypedDict):
    bytes_read: int
    request_bytes: int
    queue_depth: int
    is_tuned: bool
    device_gbps: float

@type_check_only
class _Progress(TypedDict):
    bytes_read: int
    requests: int
    busy_ns: int
    stall_ns: int
    ring_full_ns: int

@type_check_only
class _Stats(_Device):
    engine: str
    features: list[str]
    refusals: list[tuple[str, str]]
    cached_bytes: int
    requests: int
    busy_ns: int
    stall_ns: int
    ring_full_ns: int
    takes: int
    waits: int
    units: int
    peak_anon_bytes: int
    arena_bytes: int
    arena_resident_bytes: int
    huge_page_bytes: int
    locked_bytes: int
    resident_bytes_loaded: int
    trace_dropped: int
    devices: list[_Device]

@final
class Readahead:
    """Reads units ahead of their use: one thread, one arena, residents and a ring of slots.

    A unit is a list of parts ``(file, offset, nbytes, item_size)``; every part starts at a multiple
    of its item size in the unit's lease.
    """

    def __new__(
        cls,
        files: Sequence[str | PathLike[str]],
        units: Sequence[Sequence[tuple[int, int, int, int]]],
        *,
        names: Sequence[str] = ...,
        residents: Sequence[int] = ...,
        ring_bytes: int,
        engine: str = "auto",
        request_bytes: int = ...,
        queue_depth: int = 8,
        tune: bool = True,
        expected_gbps: float | None = None,
        trace: bool = False,
        silence_s: float = 10.0,
        throttle_gbps: float | None = None,
        latency_us: int = 0,
        mlock: bool = False,
    ) -> Self:
        """Open the files and start loading ``residents``, in the order given.

        Args:
            files: Paths, which parts name by index.
            units: The parts of each unit.
            names: What messages call the units.
            residents: Units that stay in memory.
            ring_bytes: Memory for all other units; at least the largest that is ever scheduled.
            engine: ``"auto"``, ``"uring"``, ``"direct"``, ``"buffered"`` or ``"mmap"`` (a baseline:
                a file truncated while it is read kills the process).
            request_bytes: The longest read, 8 MiB by default.
            queue_depth: Reads in flight from each device.
            tune: Look for a better request size and queue depth while reading.
            expected_gbps: What these settings gave before, in 10^9 bytes a second: they are kept,
                with or without ``tune``, and looked for again once the rate of a device stays off
                by more than a third.
            trace: Record requests, waits and leases for `trace`.
            silence_s: A device that answers nothing for so many seconds is named in the log.
            throttle_gbps: Pretend to a disk of so many 10^9 bytes a second.
            latency_us: Pretend that every read takes so long at least.
            mlock: Lock the memory, so that weights are never swapped out; where the system refuses,
                a line in the log says so.

        Raises:
            ValueError: for a unit, resident or engine that does not exist, or an option that
                makes no sense.
            AirLLMError: if memory is short or the engine cannot read the files.
            OSError: if a file cannot be opened.
        """

    def schedule(self, units: Sequence[int], *, cyclic: bool = False) -> None:
        """Read ``units`` in this order, for ever if ``cyclic``.

        Replaces what is not in flight; what is in memory or in flight serves where it matches.
        Loaded residents are passed over.

        Raises:
            ValueError: if a unit does not exist or is larger than the ring.
            CheckpointChanged: if a file is not what it was.
        """

    def demand(self, units: Sequence[int]) -> None:
        """Read ``units`` before the rest of the schedule, each for one `take`."""

    def take(self, unit: int) -> Lease:
        """Wait for a unit and lease it; Ctrl-C ends the wait.

        Raises:
            NotScheduled: if it was neither scheduled nor demanded.
            LeaseHeld: if it has no room because of leases.
            OSError: if its bytes could not be read; the next take tries again.
        """

    def evict(self, units: Sequence[int]) -> None:
        """Give residents up: their memory goes back, the units are streamed from then on.

        Raises:
            LeaseHeld: if one of them is leased; nothing is given up then.
        """

    def offsets(self, unit: int) -> list[int]:
        """Return where each part of a unit starts in its lease, in bytes."""

    def stats(self) -> _Stats:
        """Return the counters since the beginning.

        ``busy_ns`` is time with a read in flight, ``stall_ns`` time that `take` waited, and
        ``ring_full_ns`` time with nothing in flight although the schedule had more: then the
        consumer is the limit. ``waits`` of ``takes`` had to wait; ``units`` were streamed.

        ``huge_page_bytes`` and ``locked_bytes`` of the arena are as the kernel counts them, which
        takes it some milliseconds per gigabyte.

        ``devices`` has an entry per disk, in the order in which the files name them first:
        ``request_bytes`` and ``queue_depth`` are the best found so far, ``is_tuned`` says that they
        were measured, ``device_gbps`` is the rate while the queue was full, in 10^9 bytes a second,
        0 before it was measured. The same keys outside are those of the disk that was read most,
        but ``bytes_read``, which is for all.
        """

    def progress(self) -> _Progress:
        """Return those counters of `stats` that move while reading; takes microseconds."""

    def trace(self) -> list[tuple[str, int, int, int, int, int, int]]:
        """Take out what was recorded: (kind, unit, file, offset, nbytes, begin_ns, end_ns).

        A ``"request"`` lasts from submission to completion, a ``"wait"`` while `take` waited, a
        ``"lease"`` until it was dropped (residents only when waited for); the last two have file
        -1 and offset 0. Times are those of `time.monotonic_ns`. The newest 131,072 requests and
        as many others are kept; ``trace_dropped`` in `stats` counts the rest.
        """

    @property
    def arena(self) -> Arena:
        """All memory: the residents, then the ring."""

    @property
    def engine(self) -> str:
        """The engine that reads."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def close(self) -> None:
        """Stop reading; leases stay good.

        A device that does not answer within a second keeps its thread and memory, with a
        RuntimeWarning.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        *_exception: type[BaseException] | BaseException | TracebackType | None,
    ) -> None: ...

@final
class Lease:
    """The bytes of a unit, writable; the slot goes back to the ring when this is dropped."""

    @property
    def unit(self) -> int:
        """The unit."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Arena:
    """Memory in huge pages where the kernel has them; a readahead has all of its weights in one."""

    def __new__(cls, nbytes: int) -> Self:
        """Return zeroed memory, which takes none before it is touched.

        Raises:
            AirLLMError: if there is no such amount of address space.
        """

    @property
    def huge_page_bytes(self) -> int:
        """How many of the bytes touched are in huge pages."""

    @property
    def nbytes(self) -> int:
        """Its length."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@type_check_only
class _Measured(TypedDict):
    engine: str
    features: list[str]
    refusals: list[tuple[str, str]]
    bytes: int
    cached_bytes: int
    requests: int
    seconds: float
    cpu_seconds: float
    latency_p50_ns: int
    latency_p99_ns: int
    latency_p999_ns: int
    latency_max_ns: int
    arena_resident_bytes: int
    huge_page_bytes: int
    sampled_pages: int
    cached_pages: int

def bench_io(
    paths: Sequence[str | PathLike[str]],
    *,
    engine: str = "auto",
    block_bytes: int = ...,
    queue_depth: int = 8,
    pages: str = "huge",
    cache: str = "cold",
    total_bytes: int | None = None,
    requests: Sequence[tuple[int, int, int]] | None = None,
    throttle_gbps: float | None = None,
    latency_us: int = 0,
    page_cache: bool = True,
    registered_buffers: bool = True,
    registered_files: bool = False,
) -> _Measured:
    """Read as fast as an engine can, and measure it; Ctrl-C ends it.

    Blocks are read in the order of the files, into memory for ``queue_depth`` of them that is
    touched beforehand.

    Args:
        paths: The files.
        engine: ``"auto"``, ``"uring"``, ``"direct"``, ``"buffered"`` or ``"mmap"``.
        block_bytes: Bytes of a read, 8 MiB by default; a multiple of the engine's alignment.
        queue_depth: Reads in flight; of all engines but uring, also threads (at most 8).
        pages: Of the memory: ``"huge"``, or ``"4k"`` to see what huge ones are good for.
        cache: ``"cold"`` clears the files from the page cache first; ``"warm"`` takes them as they
            are.
        total_bytes: Bytes in all, beginning again after the last file; by default all files once.
        requests: ``(file, offset, nbytes)`` to read instead, in this order.
        throttle_gbps: Pretend to a disk of so many 10^9 bytes a second.
        latency_us: Pretend that every read takes so long at least.
        page_cache: Whether what is in the page cache may be taken from there.
        registered_buffers: Whether uring registers the memory with the kernel.
        registered_files: Whether uring registers the files with the kernel.

    Returns:
        The engine that read, what it made use of, and the preferred ones that could not be used
        with the reasons. ``bytes`` asked for, and how many of all read came from the page cache;
        seconds, from the first read's start to the last one's end, and of processor time of the
        whole process meanwhile; the reads' latencies in nanoseconds; how much of the memory is in
        huge pages, in bytes; how many of the sampled pages are in the page cache afterwards.

    Raises:
        ValueError: for an argument that makes no sense.
        AirLLMError: if a file stays in the page cache, or the engine cannot read the files.
        OSError: if a file cannot be read.
    """

@final
class Layout:
    """How the bytes of a packed weight become numbers.

    Made of a JSON object ``{"kind": …, "options": …}``; docs/format.md lists kinds and options.

    Raises:
        ValueError: saying where the description makes no sense.
    """

    def __new__(cls, description: str) -> Self: ...

_Part: TypeAlias = tuple[object, int]

@final
class Weight:
    """A matrix of shape (rows, cols) as its bytes lie in buffers of others, kept alive.

    Each part is (an object with the buffer protocol, the offset of its first byte).

    Raises:
        ValueError: if a part is smaller than layout and shape demand.
    """

    def __new__(
        cls,
        layout: Layout,
        rows: int,
        cols: int,
        q: _Part,
        *,
        scale: _Part | None = None,
        row: _Part | None = None,
        zero: _Part | None = None,
        group: _Part | None = None,
        nested_code: _Part | None = None,
        nested_scale: _Part | None = None,
    ) -> Self: ...
    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""

def attend(
    q: object,
    k: object,
    v: object,
    out: object,
    dtype: str,
    *,
    scale: float,
    origins: Sequence[int] | None = None,
    window: int | None = None,
    mask: object | None = None,
    softcap: float | None = None,
    sinks: object | None = None,
) -> None:
    """Let up to 32 tokens of each sequence attend to its keys, summed in f32.

    The tokens are those of the last keys; none sees a key after its own. The bits of what a token
    gets depend on its query and on the keys it sees alone: not on other tokens and sequences, nor
    on keys that it does not see. A token that sees none gets zeros.

    Args:
        q: A buffer of shape (B, H, T, D), H a multiple of G, vectors of contiguous items.
        k: The same of shape (B, G, S, D).
        v: The same of shape (B, G, S, E).
        out: A contiguous, writable buffer of shape (B, T, H, E).
        dtype: Of them all: ``F32``, ``F16`` or ``BF16``.
        scale: What products of queries and keys are multiplied by.
        origins: Of each sequence, which key is that of its first token: positive after padding,
            which is not seen, negative where the first keys are gone. 0 if None.
        window: How many keys a token sees at most, its own included.
        mask: A buffer of shape (B or 1, 1, T, S): bool, whether a key is seen, or f32, added to the
            scores.
        softcap: Scores become ``softcap * tanh(score / softcap)``; above zero.
        sinks: A buffer of f32: for each head the score of a key without a value.

    Raises:
        ValueError: if sizes do not fit together, or ``softcap`` is not a number above zero.
        MemoryError: if there is no memory for what lies between scores and results.
    """

def dequantize_into(
    weight: Weight, out: object, dtype: str, start: int = 0, stop: int | None = None
) -> None:
    """Write the rows [start, stop) of a weight as numbers, the same bits on every machine.

    Args:
        weight: The weight.
        out: A contiguous, writable buffer of exactly that many numbers.
        dtype: Of ``out``: ``F32``, ``F16`` or ``BF16``.
        start: First row.
        stop: One after the last; all if None.
    """

def linear(
    x: object,
    dtype: str,
    weights: Sequence[Weight],
    outs: Sequence[tuple[object, int, int]],
    biases: Sequence[object | None] | None = None,
) -> None:
    """Multiply up to 32 rows with several weights: ``out = x @ weight.T + bias``, summed in f32.

    The bits of a row of the results depend on that row of ``x`` and on the weight alone. Runs on
    torch's threads where torch is loaded, and on its own in a process that was forked after this
    module was imported; one that is forked before, with threads of torch's, may wait for them
    forever, as torch does.

    Args:
        x: A contiguous buffer of shape (M, cols).
        dtype: Of x, results and biases: ``F32``, ``F16`` or ``BF16``.
        weights: Of shape (rows, cols) each.
        outs: For each, (buffer, items before its first result, items from row to row). Several may
            have one buffer; none of them ``x``, a weight or a bias.
        biases: For each, a buffer of (rows,) or None.

    Raises:
        ValueError: if sizes do not fit together, or results lie on each other.
    """

def repack(
    kind: str, shape: tuple[int, int, int], packed: tuple[object, int, int], out: object
) -> None:
    """Write a part of a weight that is packed across rows as kernels read it, row-major.

    Args:
        kind: ``gptq`` or ``awq`` for numbers; ``gptq_zeros``, ``gptq_v2_zeros``, ``awq_zeros`` or
            ``compressed_tensors_zeros`` for zero points, to one byte each; ``transposed`` for
            scales of two bytes.
        shape: (rows, columns, bits) of the result; zero points and scales have groups as columns.
        packed: (an object with the buffer protocol, the offset of the first byte, how many).
        out: A contiguous, writable buffer of exactly the size of the result; not the packed one.

    Raises:
        ValueError: if a size or shape does not fit.
    """

def quantize(
    values: object,
    dtype: str,
    rows: int,
    cols: int,
    scheme: str,
    q: object,
    scale: object,
    row: object | None = None,
    effort: str = "search",
) -> bool:
    """Encode a matrix of shape (rows, cols) into a scheme of shard stores.

    Returns False if a row has what is no finite number; what is written for it then means nothing.

    Args:
        values: A contiguous buffer of numbers.
        dtype: Of them: ``F32``, ``F16`` or ``BF16``.
        rows: How many.
        cols: How many: a multiple of the scheme's block.
        scheme: ``8bit``, ``4bit``, ``4bit-hq`` or ``nf4``.
        q: A contiguous, writable buffer for the codes: a byte per number, or per two.
        scale: The same for the scales: a byte per block, f32 for ``nf4``.
        row: The same for an f32 per row; None for ``nf4``.
        effort: ``search`` tries several scales per block, ``fast`` takes the largest magnitude.

    Raises:
        ValueError: if sizes do not fit together, or ``q``, ``scale`` and ``row`` lie on each other.
    """

def gather_rows(
    path: str | PathLike[str],
    offset: int,
    row_nbytes: int,
    rows: object,
    out: object,
) -> int:
    """Read rows of a table that starts at ``offset`` of a file; return the bytes read.

    Args:
        path: The file.
        offset: Where the table starts, in bytes.
        row_nbytes: Bytes of one row.
        rows: Row numbers: a buffer of int64.
        out: A contiguous, writable buffer of uint8: ``len(rows) * row_nbytes`` bytes.

    Raises:
        ValueError: for a row that does not exist, or an output of another size.
        OSError: if the file cannot be read.
    """

def probe_engines(path: str | PathLike[str]) -> list[tuple[str, bool, str | None, int]]:
    """Return (engine, whether it can read this file, why not, its alignment) for every engine.

    Of one that can, the third is None or what is to be known about it.
    """

def simd_tier() -> str:
    """Return which kernels run: the best that the processor has, or ``AIRLLM_RS_SIMD``."""

def read_manifest(directory: str | PathLike[str]) -> str | None:
    """Return the manifest of a shard store as JSON, checked; None if there is none.

    Raises:
        CheckpointError: if it is none, leads elsewhere or is of another format version.
        OSError: if it cannot be read.
    """

def verify_store(
    directory: str | PathLike[str],
    *,
    threads: int,
    manifest: str | None = None,
    progress: Callable[[int, int, int], object] | None = None,
) -> int:
    """Read every byte of a shard store, hold it against its checksum, and return how many.

    Args:
        directory: Has the manifest.
        threads: How many read at once.
        manifest: The JSON of a manifest, instead of that in the directory.
        progress: Told ten times a second how many bytes are verified; two zeros follow.

    Raises:
        ValueError: if the manifest given is none.
        CheckpointError: naming the file, chunk and tensor of the first bytes that differ.
        OSError: if a file cannot be read.
    """

def write_store(
    directories: Sequence[str | PathLike[str]],
    sources: Sequence[str | PathLike[str]],
    files: Sequence[tuple[str, str, int, Mapping[str, str], Sequence[tuple[object, ...]]]],
    *,
    threads: int,
    block_bytes: int,
    is_thorough: bool = True,
    progress: Callable[[int, int, int], object] | None = None,
) -> list[tuple[str, str, int, int, list[int], list[str]]]:
    """Make files of a shard store, each whole or absent; those that are finished are kept.

    Args:
        directories: Where files go.
        sources: The files of the checkpoint.
        files: Of each its name, its layer, the number of its directory, the metadata of its header
            and its tensors: of each the name, dtype, shape, (number of the source, offset, nbytes),
            the scheme or None to copy it, and whether it begins a unit.
        threads: How many work.
        block_bytes: Bytes of the source that each works on at a time.
        is_thorough: Whether good scales are searched for.
        progress: Told ten times a second how many bytes of the source are dealt with, and how many
            files were made and kept.

    Returns:
        Of each file its name, layer, directory, size, the CRC32C of each 8 MiB, and the tensors
        that were to be encoded and hold what is no number.

    Raises:
        ValueError: for a tensor that cannot be made.
        OSError: if the disk is full, or a file cannot be read or written.
    """
