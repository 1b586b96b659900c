# imagehubfs - an image generator as files. `make help` lists the targets.

PREFIX   ?= /usr/local
BUILD    ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))$(if $(COVERAGE),/coverage)
CC       ?= cc
PYTEST   ?= /usr/bin/python3 -m pytest
comma    := ,
space    := $(subst ,, )

# What is needed to build, and what the tests need on top (Debian's packages).
BUILD_PACKAGES := gcc make pkg-config libfuse3-dev fuse3 libcurl4-openssl-dev libssl-dev libjansson-dev \
	libsqlite3-dev libyaml-dev libsodium-dev libmicrohttpd-dev libcairo2-dev libpng-dev zlib1g-dev
# Samba's package starts a server where systemd runs; there it is only tested when it is installed already.
SAMBA := $(if $(wildcard /run/systemd/system),,samba)
CHECK_PACKAGES := $(BUILD_PACKAGES) libcmocka-dev python3-pytest curl sqlite3 rsync attr \
	inotify-tools libglib2.0-bin procps strace \
	vim nano emacs-nox ed patch sed perl git zip unzip libarchive-tools cpio \
	openssh-client openssh-sftp-server smbclient $(SAMBA)
TORTURE_PACKAGES := $(CHECK_PACKAGES) stress-ng fio openssl

# ---- flags ----

WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wundef -Wformat=2 -Wstrict-prototypes \
	-Wmissing-prototypes -Wwrite-strings -Wpointer-arith -Wconversion -Wno-sign-conversion \
	$(if $(DEVELOPER),-Werror)
HARDENING := -O2 -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection \
	-fcf-protection=full -ftrivial-auto-var-init=zero -fPIE
HARDENING_LD := -pie -Wl,-z,relro,-z,now,-z,noexecstack
ifneq ($(SANITIZE),)
HARDENING := -O1 -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
HARDENING_LD := -fsanitize=$(SANITIZE)
endif
ifneq ($(COVERAGE),)
HARDENING := -O0 --coverage -fprofile-update=atomic
HARDENING_LD := --coverage
endif

# Each folder of src is an archive. A folder sees only the folders before it in this list, and one
# or two libraries; tests/layers.sh holds both rules.
FS_FOLDERS  := base local db wire prompt catalogue net engine mount
HUB_FOLDERS := base db wire hub
FOLDERS     := $(FS_FOLDERS) hub
LIBS_db        := sqlite3
LIBS_wire      := jansson
LIBS_prompt    := yaml-0.1
LIBS_net       := libcurl
LIBS_engine    := libsodium libcrypto
LIBS_mount     := fuse3
LIBS_hub       := libmicrohttpd libsodium cairo libpng zlib
PKG_CONFIG ?= pkg-config

VERSION := 1.0
CPPFLAGS_ALL := -Isrc -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DVERSION='"$(VERSION)"' \
	-DFUSE_USE_VERSION=314 $(CPPFLAGS)
CFLAGS_ALL := -std=gnu11 -g -pthread $(HARDENING) $(WARNINGS) $(CFLAGS)
LDFLAGS_ALL := -pthread $(HARDENING_LD) $(LDFLAGS)
libs_of = $(if $(strip $(foreach f,$1,$(LIBS_$f))),$(shell $(PKG_CONFIG) --libs $(foreach f,$1,$(LIBS_$f))))
cflags_of = $(if $(LIBS_$1),$(shell $(PKG_CONFIG) --cflags $(LIBS_$1)))

# ---- programs ----

all: $(BUILD)/imagehubfs $(BUILD)/imagehubd

# Missing packages are installed once per tree and Makefile; says so before it does.
$(BUILD)/.build-packages: Makefile
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(BUILD_PACKAGES)"
	@mkdir -p $(@D) && touch $@
$(BUILD)/.check-packages: Makefile
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(CHECK_PACKAGES)"
	@mkdir -p $(@D) && touch $@
$(BUILD)/.torture-packages: Makefile
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(TORTURE_PACKAGES)"
	@mkdir -p $(@D) && touch $@
install-packages:
	@missing=$$(for p in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok installed' || echo $$p; \
	done); \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { echo "please install:" $$missing >&2; exit 1; }; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	echo "installing with $$sudo apt-get:" $$missing; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null

define folder_rules
SRC_$1 := $$(wildcard src/$1/*.c)
OBJ_$1 := $$(SRC_$1:src/%.c=$$(BUILD)/%.o)
$$(BUILD)/lib$1.a: $$(OBJ_$1)
	@rm -f $$@ && $$(AR) rcs $$@ $$^
$$(BUILD)/$1/%.o: src/$1/%.c | $$(BUILD)/.build-packages
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)$$(CC) $$(CPPFLAGS_ALL) $$(CFLAGS_ALL) $$(call cflags_of,$1) -MMD -MP -c -o $$@ $$<
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_rules,$f)))

say = $(if $(V),,@printf '  %-5s %s\n' $1 $2;)
# Archives from the last layer to the first, so that one pass of the linker suffices.
reverse = $(if $1,$(call reverse,$(wordlist 2,99,$1)) $(firstword $1))
archives = $(foreach f,$(call reverse,$1),$(BUILD)/lib$f.a)

$(BUILD)/main/%.o: src/%.c | $(BUILD)/.build-packages
	@mkdir -p $(@D)
	$(call say,CC,$@)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<
$(BUILD)/imagehubfs: $(BUILD)/main/imagehubfs.o $(call archives,$(FS_FOLDERS))
	$(call say,LD,$@)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(call libs_of,$(FS_FOLDERS))
$(BUILD)/imagehubd: $(BUILD)/main/imagehubd.o $(call archives,$(HUB_FOLDERS))
	$(call say,LD,$@)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(call libs_of,$(HUB_FOLDERS)) -lm

# ---- unit tests: tests/unit/FOLDER_what.c links the archives of its folder and those above ----

UNIT_SRC := $(wildcard tests/unit/*.c)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)
upto = $(if $(filter $1,$(firstword $2)),$1,$(firstword $2) $(call upto,$1,$(wordlist 2,99,$2)))
unit_folder = $(firstword $(subst _, ,$(notdir $1)))
unit_folders = $(if $(filter hub,$1),$(HUB_FOLDERS),$(call upto,$1,$(FS_FOLDERS)))
define unit_rule
$1: $(1:$(BUILD)/unit/%=tests/unit/%.c) $(call archives,$(call unit_folders,$(call unit_folder,$1))) | $(BUILD)/.check-packages
	@mkdir -p $$(@D)
	$$(call say,TEST,$$@)$$(CC) $$(CPPFLAGS_ALL) $$(CFLAGS_ALL) -Itests/unit -MMD -MP $$(LDFLAGS_ALL) -o $$@ \
		$$(filter %.c %.a,$$^) -lcmocka $$(call libs_of,$(call unit_folders,$(call unit_folder,$1))) -lm
endef
$(foreach b,$(UNIT_BIN),$(eval $(call unit_rule,$b)))

check-unit: $(UNIT_BIN)
	@set -e; for t in $(UNIT_BIN); do echo "== $$t"; $$t; done

# ---- fuzzing: tests/fuzz/FOLDER_what.c links what a unit test of that folder does ----

FUZZ_PACKAGES := $(BUILD_PACKAGES) clang libclang-rt-dev llvm
FUZZ_NAMES    := $(filter-out replay,$(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c)))
FUZZ_SLOW     := catalogue_names engine_control hub_upload
FUZZ_BUILD    := build/fuzz
# $1: the program, $2: the target's name, $3: what gives it its inputs
define fuzz_rule
$1: tests/fuzz/$2.c $(filter %.c,$3) $(wildcard tests/fuzz/*.h) $(call archives,$(call unit_folders,$(call unit_folder,$2)))
	@mkdir -p $$(@D)
	$$(call say,FUZZ,$$@)$$(CC) $$(CPPFLAGS_ALL) $$(CFLAGS_ALL) -Itests/fuzz $$(LDFLAGS_ALL) -o $$@ \
		$$(filter %.c %.a,$$^) $(filter -%,$3) $$(call libs_of,$(call unit_folders,$(call unit_folder,$2))) -lm
endef
$(foreach t,$(FUZZ_NAMES),$(eval $(call fuzz_rule,$(BUILD)/replay/$t,$t,tests/fuzz/replay.c)))
$(foreach t,$(FUZZ_NAMES),$(eval $(call fuzz_rule,$(BUILD)/libfuzzer/$t,$t,-fsanitize=fuzzer)))

# The corpus, and the same mistakes in it each time.
check-fuzz: $(FUZZ_NAMES:%=$(BUILD)/replay/%)
	@set -e; for t in $(FUZZ_NAMES); do printf '== fuzz %s: ' $$t; \
		case $$t in $(subst $(space),|,$(FUZZ_SLOW))) rounds=100 ;; *) rounds=2000 ;; esac; \
		$(BUILD)/replay/$$t tests/fuzz/corpus/$$t $$rounds; done

# clang's libFuzzer, DURATION seconds (60) for each target, or for those named by ONLY.
fuzz:
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(FUZZ_PACKAGES)"
	@$(MAKE) --no-print-directory CC=clang BUILD=$(FUZZ_BUILD) SANITIZE=address,undefined \
		CFLAGS=-fsanitize=fuzzer-no-link $(patsubst %,$(FUZZ_BUILD)/libfuzzer/%,$(or $(ONLY),$(FUZZ_NAMES)))
	@sh tests/fuzz/run.sh $(FUZZ_BUILD) $${DURATION:-60} $(or $(ONLY),$(FUZZ_NAMES))

# ---- tests ----

check-layers:
	@sh tests/layers.sh

check-hub: all | $(BUILD)/.check-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -p no:cacheprovider tests/hub

check-mount: all | $(BUILD)/.check-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -p no:cacheprovider tests/mount

# By an ordinary user, whom root makes for it (tests/as-user.sh); TESTS are other files than these.
check-user: all | $(BUILD)/.check-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) sh tests/as-user.sh $(PYTEST) -q -rs -p no:cacheprovider \
		$(or $(TESTS),tests/user tests/hub tests/mount)

# The mount tests that a sanitizer build is held to: it is too slow for those of time and of memory.
check-sanitized: all | $(BUILD)/.check-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -p no:cacheprovider \
		$(addprefix tests/mount/test_,basics.py tree.py posix.py model.py pictures.py due.py faults.py)

# Long runs, not part of `check`: at least 300 kills of the mount; SEED repeats a run's moments.
torture: torture-kills torture-syscalls
torture-kills: all | $(BUILD)/.check-packages
	KILLS=$${KILLS:-300} IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -s -p no:cacheprovider \
		tests/mount/test_kills.py

torture-syscalls: all | $(BUILD)/.check-packages
	SYSCALLS=all IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -s -p no:cacheprovider \
		tests/mount/test_syscalls.py

# stress-ng and fio on scratch files; DURATION is their seconds in all (60). Then STEPS random calls,
# compared with those on a local folder; SEED repeats them.
torture: torture-posix
torture-posix: all | $(BUILD)/.torture-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) DURATION=$(DURATION) $(PYTEST) -q -s -p no:cacheprovider tests/torture
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) STEPS=$${STEPS:-30000} $(PYTEST) -q -s -p no:cacheprovider \
		tests/mount/test_model.py

# The public pjdfstest, of which PJDFSTEST is a built copy, against tests/posix-expected.txt.
posix: all | $(BUILD)/.torture-packages
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B tests/pjdfstest.py $(PJDFSTEST)

check: $(BUILD)/.check-packages
	@$(MAKE) --no-print-directory check-layers check-unit check-fuzz check-hub check-mount

# Every test on a build that counts, then lines by folder; fails unless the path of the money has all
# of its branches covered and the rest 85 % of its lines. A daemon killed with SIGKILL counts nothing.
COVERAGE_PACKAGES := lcov
coverage:
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(CHECK_PACKAGES) $(COVERAGE_PACKAGES)"
	@find build/coverage -name '*.gcda' -delete 2>/dev/null; true
	@$(MAKE) --no-print-directory COVERAGE=1 check-unit check-fuzz check-hub check-mount
	@sh tests/coverage.sh build/coverage

# Long runs: a fault at every byte, of every kind.
torture: torture-money
torture-money: all | $(BUILD)/.check-packages
	FAULT_STEP=1 IMAGEHUBFS_BUILD=$(abspath $(BUILD)) $(PYTEST) -q -s -p no:cacheprovider \
		tests/mount/test_money.py -k every_byte

demo: all
	@IMAGEHUBFS_BUILD=$(abspath $(BUILD)) sh examples/demo.sh

# ---- benchmark: bench/*.c are its tools; passthrough_ll is libfuse's example, from its package ----

BENCH_PACKAGES := $(CHECK_PACKAGES) nginx rclone wrk gnuplot-nox git e2fsprogs mount
BENCH_MAYBE    := httpdirfs
BENCH_TOOLS    := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c)) $(BUILD)/bench/passthrough_ll
PASSTHROUGH    := /usr/share/doc/libfuse3-dev/examples/passthrough_ll.c

$(BUILD)/.bench-packages: Makefile
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(BENCH_PACKAGES)"
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(BENCH_MAYBE)" || \
		echo "without $(BENCH_MAYBE), then"
	@mkdir -p $(@D) && touch $@
$(BUILD)/bench/%: bench/%.c | $(BUILD)/.bench-packages
	@mkdir -p $(@D)
	$(call say,CC,$@)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $<
$(BUILD)/bench/passthrough_ll: | $(BUILD)/.bench-packages
	@mkdir -p $(@D)
	@[ -f $(PASSTHROUGH) ] || { cd $(@D) && apt-get download -qq libfuse3-dev && \
		dpkg -x libfuse3-dev_*.deb package; }
	$(call say,CC,$@)from=$(PASSTHROUGH); [ -f $$from ] || from=$(@D)/package$$from; \
		$(CC) -O2 -o $@ $$from $$($(PKG_CONFIG) --cflags --libs fuse3)

# QUICK=1: small counts, two runs, results into the build folder.
bench: all $(BENCH_TOOLS)
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B bench/bench.py $(if $(ONLY),--only $(ONLY)) \
		$(if $(QUICK),--quick --results $(BUILD)/bench/results,--results $(if $(ONLY),$(BUILD)/bench/results,bench))

# Where the time goes in the program, by perf and strace.
bench-profile: all $(BENCH_TOOLS)
	@$(MAKE) --no-print-directory install-packages PACKAGES="linux-perf strace"
	IMAGEHUBFS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -B bench/profiles.py --results bench

# ---- housekeeping ----

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(BUILD)/imagehubfs $(BUILD)/imagehubd $(DESTDIR)$(PREFIX)/bin
	install -m 644 doc/imagehubfs.1 doc/imagehubd.1 $(DESTDIR)$(PREFIX)/share/man/man1
uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,imagehubfs imagehubd) \
		$(addprefix $(DESTDIR)$(PREFIX)/share/man/man1/,imagehubfs.1 imagehubd.1)

ALL_SRC := $(wildcard src/*.c src/*/*.c tests/unit/*.c tests/fuzz/*.c bench/*.c)
ALL_HDR := $(wildcard src/*/*.h tests/unit/*.h tests/fuzz/*.h)
format:
	clang-format -i $(ALL_SRC) $(ALL_HDR)
# clang-tidy by .clang-tidy, and cppcheck, each with as many processes as there are processors. cppcheck
# takes what a function returns for something it was given.
LINT_FLAGS = -std=gnu11 -I$(CURDIR)/src $(filter-out -Isrc,$(CPPFLAGS_ALL)) \
	$(shell $(PKG_CONFIG) --cflags $(foreach f,$(FOLDERS),$(LIBS_$f)))
lint:
	@$(MAKE) --no-print-directory install-packages PACKAGES="$(BUILD_PACKAGES) clang-tidy cppcheck"
	cppcheck --quiet -j $$(nproc) --std=c11 --language=c --enable=warning,performance,portability \
		--inline-suppr --suppress=missingIncludeSystem --suppress=returnDanglingLifetime \
		--error-exitcode=1 -Isrc -D_GNU_SOURCE '-Djson_object_foreach(o,k,v)=for(;;)' src
	@mkdir -p build/lint && printf '%s\n' $(LINT_FLAGS) >build/lint/compile_flags.txt
	printf '%s\n' src/*.c src/*/*.c | xargs -P $$(nproc) -n 2 clang-tidy --quiet -p build/lint 2>/dev/null

clean:
	rm -rf build
help:
	@echo "make                 build/imagehubfs and build/imagehubd"
	@echo "make demo            a guided minute on a real mount (DEMO_KEEP=1 leaves it mounted)"
	@echo "make check           every test"
	@echo "make check-user      the same tests and more, by an ordinary user whom root makes for it (TESTS=files)"
	@echo "make torture         the long runs: torture-kills, torture-syscalls, torture-money (a cut, a stall and a"
	@echo "                     change at every byte of the paid POST, both ways), torture-posix (stress-ng, fio)"
	@echo "make posix PJDFSTEST=DIR   the public pjdfstest, of which DIR is a built copy"
	@echo "make fuzz            DURATION seconds (60) of libFuzzer for each target of tests/fuzz, or for ONLY"
	@echo "make coverage        every test on a counting build; lines by folder, branches where money moves"
	@echo "make bench           speed beside its peers, into bench/RESULTS.md (QUICK=1: two minutes, into build)"
	@echo "make bench-profile   where its time goes, into bench/PROFILE.md"
	@echo "make install         into PREFIX ($(PREFIX)), below DESTDIR"
	@echo "make SANITIZE=address,undefined check"
	@echo "make lint            clang-tidy and cppcheck over src; a few minutes"
	@echo "make format clean uninstall"

.PHONY: all install-packages check-unit check-fuzz fuzz check-layers check-hub check-mount check-user check-sanitized check coverage demo \
	bench bench-profile posix torture torture-kills torture-syscalls torture-money torture-posix install \
	uninstall format lint clean help
.DELETE_ON_ERROR:
-include $(wildcard $(BUILD)/*/*.d)
