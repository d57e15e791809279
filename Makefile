# SPDX-License-Identifier: Apache-2.0
# Variables: INPUT, DURATION, OUT (demo); MINUTES (fuzz, soak, stress, train-mini); PYTEST (more pytest options);
# PYTHON (the interpreter to use); TORCH_INDEX (a package index with another build of torch, for
# example the CPU-only one); EXTRAS (one more extra of setup.py for the tests, such as
# tensorrt-check); CONSTRAINTS (a pip constraint file, such as the constraints.txt of CI).

INPUT =
DURATION = 60
OUT = demo_output
MINUTES = 10
PYTEST =
PYTHON =
TORCH_INDEX ?=
EXTRAS ?=
CONSTRAINTS ?=

export INPUT DURATION OUT  # through the environment: names may hold any character
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

# The wheels of rclpy leave these behind for child processes; here they would point into the
# environment of whoever called make.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif

# A sourced ROS 2 is used, with its own Python; without one, rclpy comes from wheels. Never both:
# each has an environment of its own.
ifdef ROS_DISTRO
VENV = .venv-$(ROS_DISTRO)
VENV_FLAGS = --system-site-packages
CANDIDATES = python3
RUNTIME_EXTRAS = [recorded]
DEVELOPMENT_EXTRAS = [train,export,dev$(EXTRAS:%=,%)]
else
VENV = .venv
VENV_FLAGS =
CANDIDATES = python3.13 python3.12 python3.11 python3.10 python3
RUNTIME_EXTRAS = [ros,recorded]
DEVELOPMENT_EXTRAS = [ros,train,export,dev$(EXTRAS:%=,%)]
endif

BIN = $(VENV)/bin
DEVELOPMENT = $(VENV)/.development$(EXTRAS:%=-%)
MINI = runs/dgtl_mini
DRIVES = 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
TEXTS = runs/texts/cityscapes_vitb16.npz
INSTALL = $(BIN)/python -m pip install -c $(VENV)/constraints.txt $(CONSTRAINTS:%=-c %)
OLDEST = .venv-oldest/bin/python

.PHONY: help demo test test-oldest lint parity fuzz soak stress train-mini docs constraints audit clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 /p' $(firstword $(MAKEFILE_LIST)) | \
	    while read -r target text; do printf '  make %-13s%s\n' "$$target" "$$text"; done

demo: $(VENV)/.runtime  ## set up and run the main job [INPUT=video or folder] [DURATION=60] [OUT=demo_output]
	$(BIN)/python -m dgtl_ros.show.demo $${INPUT:+--input "$$INPUT"} --duration "$$DURATION" --out "$$OUT"

# What plays cameras does not run beside what only computes.
test: $(DEVELOPMENT)  ## set up and run the tests
ifdef PYTEST
	$(BIN)/python -m pytest $(PYTEST)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not ros and not parity'
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'ros and not parity'
endif

# Left out: pages, packages and conversion of weights, which are the same on old versions.
test-oldest: .venv-oldest/.ready  ## node and core without torch, on the oldest versions that are supported
	$(OLDEST) -m pytest -n 3 --dist loadfile -m 'not slow and not parity' \
	    $(foreach name,docs docs_run fetch packaging zoo,--ignore test/test_$(name).py) $(PYTEST)

lint: $(DEVELOPMENT)  ## ruff (with the rules of the ament linters), mypy, repeated code
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pylint dgtl_core dgtl_ros training

parity: $(DEVELOPMENT)  ## compare with the recorded numbers of the released codes, full size
	$(BIN)/python -m pytest -m parity $(PYTEST)

fuzz: $(DEVELOPMENT)  ## feed hostile bytes to what reads messages [MINUTES=10]
	$(BIN)/python test/fuzz.py --minutes $(MINUTES)

soak: $(DEVELOPMENT)  ## two cameras at 30 Hz and a fault a second [MINUTES=10]
	$(BIN)/python -m dgtl_ros.show.soak --minutes $(MINUTES) --out soak_output

stress: $(DEVELOPMENT)  ## the same while busy loops take the processor away [MINUTES=10]
	$(BIN)/python -m dgtl_ros.show.soak --minutes $(MINUTES) --out soak_output --busy 2

docs: $(DEVELOPMENT)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

audit: $(DEVELOPMENT)  ## look for known vulnerabilities in what constraints.txt names
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# Resolves anew; installs nothing.
constraints: $(DEVELOPMENT)  ## renew constraints.txt, the versions that CI installs
	$(BIN)/python -m pip install --dry-run --ignore-installed --quiet \
	    --report $(VENV)/report.json -e '.$(DEVELOPMENT_EXTRAS)'
	$(BIN)/python -c "$$PIN" $(VENV)/report.json >$(VENV)/new.txt && mv $(VENV)/new.txt constraints.txt

train-mini: $(DEVELOPMENT) $(TEXTS)  ## train the embedded model again [MINUTES=10, on a GPU; 360 without]
	$(BIN)/python -m training.mini --texts $(TEXTS) --out $(MINI) --minutes $(MINUTES)
	for seed in $(DRIVES); do $(BIN)/python -m dgtl_core.streetworld --drive --count 40 \
	    --seed 200000$$seed --size 384 768 --out $(MINI)/drives/$$seed || exit 1; done
	$(BIN)/python -m training.export $(MINI)/model.safetensors models/dgtl_mini.onnx \
	    --weights float16 --force --calibrate streetworld:clear,seed=500,count=36 \
	    $(foreach seed,$(DRIVES),--domain $(MINI)/drives/$(seed))

$(TEXTS): | $(DEVELOPMENT)
	$(BIN)/python -m training.embed_classes cityscapes $@ --model ViT-B-16

clean:  ## remove builds and caches; environments and results stay
	rm -rf build install log dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# The newest Python that can make an environment; with ROS 2, the one that has its rclpy.
$(VENV)/.created:
	@for python in $(or $(PYTHON),$(CANDIDATES)); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    if ! $$python -c 'import ssl, venv, ensurepip; ensurepip.version()' 2>/dev/null; then \
	        lame=$$($$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); continue; \
	    fi; \
	    if [ -n "$$ROS_DISTRO" ] && ! $$python -c 'import rclpy' 2>/dev/null; then \
	        echo "ROS 2 $$ROS_DISTRO is sourced, but $$(command -v $$python) cannot import its rclpy." \
	             'Put the Python of the distribution first in PATH, or use a shell without ROS.' >&2; \
	        exit 1; \
	    fi; \
	    if [ -z "$$ROS_DISTRO" ] && [ "$$(uname -m)" != x86_64 ]; then \
	        echo "There are rclpy wheels for x86_64 only, and this is $$(uname -m):" \
	             'source a ROS 2 first (. /opt/ros/jazzy/setup.sh).' >&2; \
	        exit 1; \
	    fi; \
	    echo "making $(VENV) with $$($$python --version)"; \
	    $$python -m venv --clear $(VENV_FLAGS) $(VENV) || exit 1; \
	    $(BIN)/python -m pip install -q --upgrade pip || exit 1; \
	    : >$(VENV)/constraints.txt; \
	    if [ -n "$$ROS_DISTRO" ]; then $$python -c "$$CONSTRAIN" >$(VENV)/constraints.txt || exit 1; fi; \
	    touch $@; exit 0; \
	done; \
	if [ -n "$$lame" ]; then \
	    echo "$$lame cannot make virtual environments: sudo apt install $$lame-venv" >&2; \
	else \
	    echo 'Python 3.10 or newer is needed, none of these is: $(or $(PYTHON),$(CANDIDATES)).' \
	         'sudo apt install python3 python3-venv, or name one with PYTHON=/path/to/python3.' >&2; \
	fi; \
	exit 1

# The compiled messages of a ROS 2 fit one major version of NumPy, its launch_testing only an old
# pytest.
define CONSTRAIN
import numpy
print('numpy<%d' % (int(numpy.__version__.split('.')[0]) + 1))
print('pytest<9')
endef
export CONSTRAIN

define PIN
import json, sys
print('# What CI installs, on Python %d.%d; renewed by "make constraints".' % sys.version_info[:2])
found = [part['metadata'] for part in json.load(open(sys.argv[1]))['install']]
print('\n'.join(sorted('%s==%s' % (part['name'].lower().replace('_', '-'), part['version'].partition('+')[0])
                       for part in found if part['name'].replace('-', '_') != 'dgtl_ros')))
endef
export PIN

# Python 3.10 where there is one that works, else what there is.
.venv-oldest/.ready: setup.py test/oldest.txt
	@for python in python3.10 "$$HOME/.pyenv/versions/"3.10*/bin/python $(or $(PYTHON),$(CANDIDATES)); do \
	    $$python -c 'import ssl, venv, ensurepip; ensurepip.version()' 2>/dev/null || continue; \
	    echo "making .venv-oldest with $$($$python --version)"; \
	    $$python -m venv --clear .venv-oldest && $(OLDEST) -m pip install -q --upgrade pip && break; \
	done
	@$(OLDEST) -m pip install -q -c test/oldest.txt -r test/oldest.txt -e '.[ros,test,recorded]'
	@touch $@

$(VENV)/.runtime: setup.py $(VENV)/.created
	@echo 'installing what the node needs'
	@$(INSTALL) -q -e '.$(RUNTIME_EXTRAS)'
	@touch $@

$(DEVELOPMENT): setup.py $(CONSTRAINTS) $(VENV)/.created
	@echo 'installing what training and the tests need (torch is large: this can take minutes)'
ifneq ($(TORCH_INDEX),)
	@# Both from one place: a torchvision for another build of torch does not load.
	@$(INSTALL) -q --index-url '$(TORCH_INDEX)' torch torchvision
endif
	@$(INSTALL) -q -e '.$(DEVELOPMENT_EXTRAS)'
	@touch $@ $(VENV)/.runtime
