# make demo   a rack with two real routers, three nodes and six pods on this machine, checked and taken down again
#             (make demo KEEP=1 leaves it running and says what to type next)
# make test   every test
# Both want root, and install what they need from the distribution's packages.

SHELL := /bin/bash
CARGO ?= cargo
LAB := target/debug/manx-lab

.PHONY: demo test build deps lint pure crds manifests clean-labs help

help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile

deps:
	@testbed/install-deps

build: deps
	$(CARGO) build --locked --workspace --bins

demo: build
	$(LAB) demo $(if $(KEEP),--keep)

test: build
	$(CARGO) test --locked --workspace --no-fail-fast -- --include-ignored

# What the gate asks of the code's form: formatting, lints, and that the crates know only what they may.
lint: pure
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

pure:
	@deploy/check-dependencies

# The custom resource definitions are generated from the Rust types and checked in.
crds:
	$(CARGO) run --locked -q -p manx-felix --bin crds -- --dir deploy/crds

# So is the Helm chart, from the manifests of deploy/base.
manifests: crds
	$(CARGO) run --locked -q -p manx-testbed --bin chart -- deploy

clean-labs:
	$(LAB) down --all
