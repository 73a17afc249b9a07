"""llama.cpp over a mapped bf16 GGUF file, through the server inside the wheel `xllamacpp`."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import json
import time

import xllamacpp


def load(job: worker.Job) -> worker.Generate:
    """Map the file; llama.cpp's own warm-up, a sweep of its own, stays off."""
    params = xllamacpp.CommonParams()
    params.model.path = job.copy
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.n_ctx = max(len(job.prompt) + job.tokens, len(job.prefill)) + 16
    params.n_parallel = 1
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job.threads
    server = xllamacpp.Server(params)

    def generate(prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
        answers: list[str] = []
        request = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            "verbose": True,  # the only form of the answer that has the token ids
        }
        asked = time.monotonic()
        server.handle_completions(json.dumps(request), answers.append)
        answer = json.loads(answers[-1])
        if "timings" not in answer:
            raise SystemExit(f"llama.cpp: {answers[-1]}")
        return answer["__verbose"]["tokens"], instants(answer["timings"], asked)

    return generate


def instants(timings: dict[str, float], asked: float) -> list[float]:
    """Return the instant of each token, evenly spread: the server times the decoding as a whole."""
    first = asked + timings["prompt_ms"] / 1000
    # Its first token counts as predicted, but its clock starts when that one is there.
    count = int(timings["predicted_n"])
    step = timings["predicted_ms"] / 1000 / max(1, count - 1)
    return [first + index * step for index in range(count)]


worker.run(load, "xllamacpp")
