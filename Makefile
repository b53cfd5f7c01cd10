# The commands a newcomer needs. What they do is in scripts/.

.DEFAULT_GOAL := help
.PHONY: help up down test lint bench soak dist clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## install KAT on this host, start it and run the example
	@scripts/up.sh

down: ## stop KAT and remove everything it made (asks before deleting volumes)
	@scripts/down.sh

test: ## run every test, real parts included, beside a live `make up`
	@scripts/test.sh

lint: ## style and types
	@scripts/lint.sh

bench: ## measure, and print the table
	@scripts/bench.sh

soak: ## run the slow and random tests ten times over
	@KAT_TEST_SOAK=1 KAT_TEST_ROUNDS=10 scripts/test.sh

dist: ## build the wheels of the core and of each plugin into dist/
	@scripts/host.sh lint && scripts/install.sh .venv-test default,testing,lint && ls -1 dist/*.whl

clean: ## remove what building and testing left in this folder (never what `make up` runs)
	@rm -rf dist build .venv-test .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info plugins/*/build plugins/*/*.egg-info
