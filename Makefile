# `make demo` and `make test` each set themselves up in .venv; nothing else has to be done first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test coverage lint bench chaos clean

demo: $(READY)
	@$(BIN)/python benchmarks/demo.py

test: $(READY) lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# The same tests, counting lines: twice the time.
coverage: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loop_overhead.py --tune-trials 0
	$(BIN)/python benchmarks/measure_latency.py

chaos: $(READY)
	$(BIN)/python benchmarks/chaos.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(READY)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage* build dist
