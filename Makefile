PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run test soak check format benchmark pictures container clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(BIN)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	touch $@

run: $(BIN)/.installed  ## start the supervisor on http://127.0.0.1:8000 (settings: BOT_SUPERVISOR_…)
	exec $(BIN)/python -m supervisor

test: $(BIN)/.installed  ## the whole normal test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

soak: $(BIN)/.installed  ## the slow tests: hundreds of random deaths, thousands of random commands
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=1800

check: $(BIN)/.installed  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(BIN)/.installed  ## format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(BIN)/.installed  ## measure us beside the floor; some minutes
	$(BIN)/python -m benchmarks

pictures: $(BIN)/.installed  ## make the pictures of the documents from the real program
	PYTHONPATH=. $(BIN)/python docs/pictures.py

container:  ## build the image and start it with docker compose
	docker compose up --build

clean:  ## remove the environment and all caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
