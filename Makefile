# make help lists what there is.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 10s
SOAK        ?= 10m
COUNT       ?= 10
# Cut, hash, checksum, compress and seal, look up, write and read.
STAGES      := 'Cut|Sum|VerifyPage|Seal|Lookup|Update|BenchmarkPush$$|Stage'
STAGED      := ./internal/chunk ./internal/postgres ./internal/seal ./index ./chunkstore ./bench
# What the race detector runs on: packages whose goroutines are ours, but for those
# whose tests are mostly servers.
RACE        ?= $(shell $(GO) list ./... 2>/dev/null | grep -v -e '/cmd/' -e '/bench' -e '/pgtest' -e '/enginetest' \
	-e '/compat' -e '/storage/azure' -e '/storage/gcs' -e '/storage/s3' -e '/storage/swift')

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Without symbols for debuggers: PostgreSQL starts the program for each segment.
# Stack traces and go version -m need none of them. internal/pgtest builds alike.
.PHONY: build
build: go ## build bin/wal-e, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/wal-e ./cmd/wal-e

# Packages have the time of the last commit in them, not of the build: who builds the
# same commit with the same Go gets the same files.
NFPM         = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
PACKAGE_AT  ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
PACKAGE_ARCH ?= $(shell $(GO) env GOARCH)
PACKAGE_VERSION = $(shell sed -n 's/^const version = "\(.*\)"/\1/p' cmd/wal-e/version.go | tr - '~')

.PHONY: package
package: build man ## make bin/*.deb and bin/*.rpm: program, man pages, completions, systemd units
	rm -f bin/*.deb bin/*.rpm
	sed "s/@MTIME@/$$(date -u -d @$(PACKAGE_AT) +%FT%TZ)/" internal/packaging/nfpm.yaml > bin/package/nfpm.yaml
	cd internal/packaging && for kind in deb rpm; do \
		SOURCE_DATE_EPOCH=$(PACKAGE_AT) VERSION=$(PACKAGE_VERSION) ARCH=$(PACKAGE_ARCH) \
			$(GO) run $(NFPM) package --config ../../bin/package/nfpm.yaml --packager $$kind --target ../../bin/ || exit; done

.PHONY: man
man: go ## make man pages and completions in bin/package
	rm -rf bin/package && mkdir -p bin/package
	SOURCE_DATE_EPOCH=$(PACKAGE_AT) $(GO) run -tags docgen ./cmd/wal-e bin/package
	gzip -9n bin/package/man1/*.1

.PHONY: docs
docs: go ## write docs/reference.md, which a test compares with the program
	$(GO) test -count=1 -run TestReference ./cmd/wal-e -update

.PHONY: package-test
package-test: package ## install the package on a new Debian (debootstrap), and back a cluster up there
	.ci/package-test

.PHONY: reproducible
reproducible: go ## build program and packages in two clones, and compare them
	.ci/reproducible

.PHONY: check
check: go ## gofmt, go vet and staticcheck
	@out=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) && test -z "$$out" || { echo "not formatted by gofmt: $$out" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

.PHONY: test
test: engines check test-only ## install the engines, check, and run all tests

.PHONY: engines
engines: ## install the servers and programs that tests need (.ci/install-engines)
	.ci/install-engines

# Tests start programs and servers that go's test cache knows nothing of, so it is not used.
.PHONY: test-only
test-only: go
	$(GO) test -count=1 -timeout 20m ./...

.PHONY: test-s3
test-s3: go ## run the tests against S3 (MinIO, versitygw, Swift's gateway)
	.ci/install-engines postgres minio versitygw toxiproxy swift
	$(GO) test -count=1 -timeout 20m -run 'TestS3|TestSecrets|Storages/s3' ./cmd/wal-e
	$(GO) test -count=1 -timeout 20m ./internal/storage/s3 ./internal/storage/httpx

.PHONY: test-swift
test-swift: go ## run the tests against OpenStack Swift and Keystone
	.ci/install-engines postgres swift keystone
	$(GO) test -count=1 -timeout 20m -run 'Swift|Keystone|Replicas|Storages/swift' ./internal/enginetest ./internal/storage/swift ./cmd/wal-e

.PHONY: test-wabs
test-wabs: go ## run the tests against Azure Blob Storage (Azurite)
	.ci/install-engines postgres azurite toxiproxy
	$(GO) test -count=1 -timeout 20m -run 'WABS|Storages/wabs' ./cmd/wal-e
	$(GO) test -count=1 -timeout 20m ./internal/storage/azure

.PHONY: test-gs
test-gs: go ## run the tests against Google Cloud Storage (an emulator)
	.ci/install-engines postgres gcs toxiproxy
	$(GO) test -count=1 -timeout 20m -run 'TestGS|Storages/gs' ./cmd/wal-e
	$(GO) test -count=1 -timeout 20m ./internal/storage/gcs

.PHONY: race
race: go ## run the tests under the race detector; RACE="./wal" narrows
	.ci/install-engines postgres compiler
	CGO_ENABLED=1 $(GO) test -race -short -count=1 -timeout 20m $(RACE)

.PHONY: soak
soak: go engines ## run the tests named TestSoak... for SOAK=10m each
	WALE_SOAK=$(SOAK) $(GO) test -run '^TestSoak' -v -count=1 -timeout 0 ./...

.PHONY: model
model: ## check the models of the collection protocol with spin
	.ci/install-engines spin compiler
	docs/model/run

.PHONY: bench
bench: go ## nights beside other tools: SCALE=20 RUNS=5 DAYS=10 STORAGE=files or s3
	.ci/install-engines postgres
	test "$(STORAGE)" != s3 || .ci/install-engines minio
	SCALE=$(SCALE) RUNS=$(RUNS) DAYS=$(DAYS) STORAGE=$(STORAGE) $(GO) test -v -run '^$$' -bench '^BenchmarkNightly$$' -benchtime 1x -timeout 0 ./bench/nightly

# Ten times each, for benchstat.
.PHONY: bench-micro
bench-micro: go ## each stage of a push and of a fetch; COUNT=10
	$(GO) test -run '^$$' -bench $(STAGES) -benchtime 0.3s -count $(COUNT) -timeout 0 $(STAGED)

# The tests start the program with an environment of their own, so a script tells it
# where its counts go. What it is killed in the midst of isn't counted.
COVERED = ./...
.PHONY: cover
cover: engines ## which lines the tests of COVERED=./... run, in this process or in the program: bin/cover/index.html
	rm -rf bin/cover && mkdir -p -m 777 bin/cover/counts
	chmod 777 bin/cover/counts
	CGO_ENABLED=0 $(GO) build -cover -coverpkg=wal-e/... -trimpath -o bin/cover/program ./cmd/wal-e
	printf '#!/bin/sh\nGOCOVERDIR=%s exec %s "$$@"\n' "$(CURDIR)/bin/cover/counts" "$(CURDIR)/bin/cover/program" >bin/cover/wal-e
	chmod 755 bin/cover/wal-e
	WALE_TEST_BINARY="$(CURDIR)/bin/cover/wal-e" $(GO) test -count=1 -timeout 60m -skip TestBinarySize -coverpkg=wal-e/... $(COVERED) -args -test.gocoverdir="$(CURDIR)/bin/cover/counts"
	$(GO) tool covdata textfmt -i=bin/cover/counts -o=bin/cover/all
	grep -v '\.qtpl:' bin/cover/all >bin/cover/profile # a page's template is no Go
	$(GO) tool cover -html=bin/cover/profile -o=bin/cover/index.html
	$(GO) tool covdata percent -i=bin/cover/counts | sed 's/^.*\t\t\t/\t/' | sort -t: -k2 -n
	$(GO) tool cover -func=bin/cover/profile | tail -n 1

.PHONY: fuzz
fuzz: go ## fuzz each target for FUZZTIME=10s
	@list=$$($(GO) test -list '^Fuzz' ./...) || { echo "$$list" >&2; exit 1; }; \
	echo "$$list" | awk '/^Fuzz/ { f[n++] = $$1 } /^ok/ { while (n > 0) print $$2, f[--n] }' | \
	while read -r pkg target; do \
		echo "$$pkg $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg" </dev/null || exit 1; \
	done

.PHONY: demo
demo: build ## archive, break and restore a cluster before your eyes
	.ci/install-engines postgres
	.ci/demo

.PHONY: clean
clean: ## remove bin
	rm -rf bin

# Debian 12's Go 1.19 is too old, even to fetch a newer one.
.PHONY: go
go:
	@want=$$(sed -n 's/^go //p' go.mod); have=$$($(GO) env GOVERSION 2>/dev/null | sed 's/^go//;s/[^0-9.].*//'); \
	printf '%s\n%s\n' "$$want" "$${have:-0}" | sort -C -V || { \
		echo "wal-e needs Go $$want or newer, here is $${have:-none that works}." >&2; \
		echo "Install it from https://go.dev/dl/ and put its bin folder into PATH;" >&2; \
		echo "any Go from 1.21 on also fetches the release it needs by itself." >&2; exit 1; }
