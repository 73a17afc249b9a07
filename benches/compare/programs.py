"""The programs that are compared: what each installs, needs prepared, and is started with."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import page_cache

Copy = Literal["split", "llama.gguf", "qwen3.gguf", "offload"]

WORKERS = Path(__file__).with_name("peers")
TORCH = ("torch==2.15.0", "transformers==5.24.0")


@dataclass(frozen=True)
class Program:
    """One row of the table."""

    name: str
    what: str
    worker: str
    requirements: tuple[str, ...] = ()  # none: this environment
    copy: Copy | None = None  # what it makes of the checkpoint before it can run
    needs_all_in_memory: bool = False
    most_tokens: int | None = None  # of a program whose every token costs the same long sweep

    @property
    def is_ours(self) -> bool:
        """Whether it is the one the others stand beside."""
        return self.name == OURS


OURS = "airllm_rs"
PROGRAMS = {
    program.name: program
    for program in (
        Program(OURS, "airllm-rs run --memory auto --context 512", "peer_airllm_rs.py"),
        Program(
            "airllm",
            "AirLLM 4.0.0, CPU, a second copy split into layers",
            "peer_airllm.py",
            ("airllm==4.0.0", "accelerate==1.15.0", *TORCH),
            copy="split",
            most_tokens=4,
        ),
        Program(
            "accelerate",
            "accelerate disk offload",
            "peer_accelerate.py",
            ("accelerate==1.15.0", *TORCH),
            copy="offload",
        ),
        Program(
            "llamacpp",
            "llama.cpp, mmap, bf16 GGUF",
            "peer_llamacpp.py",
            ("xllamacpp==2026.10.11549",),
            copy="llama.gguf",
        ),
        Program(
            "neurostream",
            "neurostream 0.2.1, CPU, bf16 GGUF of the Qwen3 shape",
            "peer_neurostream.py",
            ("neurostream==0.2.1", TORCH[0]),
            copy="qwen3.gguf",
        ),
        Program(
            "transformers",
            "transformers in memory, as stored",
            "peer_transformers.py",
            TORCH,
            needs_all_in_memory=True,
        ),
    )
}


class Peers:
    """The programs' environments and copies of one model, under a work directory."""

    def __init__(self, work: Path, model: Path) -> None:
        self.work = work
        self.model = model
        self.weights = sorted(model.glob("*.safetensors"))
        self.copies = work / "copies" / model.resolve().name
        self.libraries: dict[str, list[Path]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.prepare_s: dict[str, float] = {}

    def python(self, program: Program) -> Path:
        """Return the interpreter of the program's environment."""
        if not program.requirements:
            return Path(sys.executable)
        return self.work / "venvs" / program.name / "bin" / "python"

    def worker(self, program: Program, *arguments: str) -> list[str]:
        """Return the command of the program's worker."""
        return [str(self.python(program)), str(WORKERS / program.worker), *arguments]

    def copy(self, program: Program) -> Path | None:
        """Return where the program keeps what it makes of the checkpoint."""
        return self.copies / f"{program.name}.{program.copy}" if program.copy else None

    def files(self, program: Program) -> list[Path]:
        """Return the files that the program reads weights from."""
        copy = self.copy(program)
        if copy is None or not copy.exists():
            return self.weights
        inside = [copy] if copy.is_file() else sorted(path for path in copy.rglob("*"))
        return [path for path in inside if path.is_file() and path.stat().st_size] or self.weights

    def install(self, program: Program) -> None:
        """Make the program's environment where it is missing or holds other versions."""
        if not program.requirements:
            return
        home = self.python(program).parents[1]
        stamp, wanted = home / "requirements", "\n".join(program.requirements)
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        uv = shutil.which(
            "uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        if uv is None:
            raise SystemExit("no uv: pip install uv")
        print(f"{program.name}: installing {' '.join(program.requirements)}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
        python = str(self.python(program))
        install = [uv, "pip", "install", "--quiet", "--python", python, *program.requirements]
        subprocess.run(install, check=True)
        stamp.write_text(wanted, encoding="utf-8")

    def check_space(self, programs: Sequence[Program]) -> None:
        """Refuse to start copies that would fill the disk."""
        full = [program for program in programs if program.copy not in (None, "offload")]
        missing = [program for program in full if not (self.copies / self._mark(program)).exists()]
        needed = len(missing) * sum(path.stat().st_size for path in self.weights) + (1 << 30)
        free = shutil.disk_usage(self.work).free
        if missing and free < needed:
            names = ", ".join(program.name for program in missing)
            raise SystemExit(
                f"{self.work}: copies for {names} need {needed} bytes, {free} are free"
            )

    def prepare(self, program: Program, job: Path) -> None:
        """Make the program's copy of the checkpoint, unless a run before this one left it."""
        copy = self.copy(program)
        if copy is None:
            return
        mark = self.copies / self._mark(program)
        if mark.exists():
            return
        self.copies.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        if program.copy in ("llama.gguf", "qwen3.gguf"):
            # Its own process: a whole matrix at a time would raise what this one holds.
            architecture = program.copy.removesuffix(".gguf")
            converter = str(Path(__file__).with_name("to_gguf.py"))
            command = [sys.executable, converter, str(self.model), str(copy), architecture]
            subprocess.run(command, check=True)
        else:
            copy.mkdir(exist_ok=True)
            if program.copy == "split":
                print(f"{program.name}: splitting the checkpoint", file=sys.stderr)
                command = self.worker(program, str(job))
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{program.name}: no split\n{done.stderr}")
        self.prepare_s[program.name] = time.monotonic() - started
        mark.touch()

    def remove_copies(self) -> None:
        """Delete every copy of the model."""
        shutil.rmtree(self.copies, ignore_errors=True)

    def read_in_libraries(self, program: Program) -> int:
        """Read the program's shared objects, so that no limit is charged for their pages."""
        return page_cache.read_in(self.libraries[program.name])

    def _mark(self, program: Program) -> str:
        return f"{program.name}.done"
