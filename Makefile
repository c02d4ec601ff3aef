# Everything a newcomer or a contributor runs. Each target makes the environment it needs; none asks for a second step.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
REAL := $(if $(SAMTUNE_REAL_DATA),$(SAMTUNE_REAL_DATA),../shared/data)

.PHONY: clips studio-screenshots shards-fire ablation resume-fire studio-kill onnx-browser demo test coverage wheel test-gpu install lint types layers check notebooks proofs fuzz parity bench bench-prepare bench-large real-sets verdict-proofs data-curves evaluation-cost finder-sets lock clean

demo: $(READY)  ## Draw a dataset, tune the built-in model on it, compare both, write a report
	$(BIN)/samtune demo --out demo

test: $(READY)  ## The tests, under 10 minutes on 2 cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not gpu" $(TEST_OPTIONS)

coverage: $(READY)  ## The same, and which lines no test runs
	$(MAKE) test TEST_OPTIONS="--cov --cov-report=term-missing:skip-covered"

wheel: $(READY)  ## Build the wheel, install it into a fresh environment, use it
	.ci/wheel

install: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(READY)
	$(BIN)/lint-imports

check: lint types layers test  ## All that must hold before a change lands

test-gpu: $(READY)  ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

notebooks: $(READY)  ## Run both notebooks from start to end, in place
	$(BIN)/python notebooks/run.py

proofs: $(READY)  ## The longer proofs
	$(BIN)/python -m pytest -m "slow and not gpu"

resume-fire: $(READY)  ## Kill a run at 200 moments and resume it; let the disk fail 500 times; needs a C compiler
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fire --kills 200 --faults 500

onnx-browser: $(READY)  ## nano's ONNX decoder in Chromium; needs chromium and npm
	npm install --silent --prefix build/web onnxruntime-web
	$(BIN)/python benchmarks/onnx_browser.py --ort build/web/node_modules/onnxruntime-web/dist

shards-fire: $(READY)  ## 100,000 small images in shards, workers killed 20 times (SHARDS_OPTIONS="--images 20000 --kills 20")
	$(BIN)/python -m tests.shards_fire $(SHARDS_OPTIONS)

clips: $(READY)  ## J&F of base and tuned: a memory for nano, tuning on frames, clips to measure; half an hour; goes on where it was
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/clip_memory.py --out build/clips
	$(BIN)/python benchmarks/clip_tuning.py --out build/clips --sets $(addprefix $(REAL)/,lens_coco plants_coco)

fuzz: $(READY)  ## 10,000 damaged COCO files, 2,000 of YOLO, LabelMe, VIA and mask folders each, new ones each time
	SAMTUNE_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/test_fuzz_coco.py
	SAMTUNE_FUZZ_FORMAT_CASES=2000 $(BIN)/python -m pytest tests/test_fuzz_formats.py

studio-screenshots: $(READY)  ## The screenshots in docs/studio.md; needs Chromium
	$(BIN)/python benchmarks/studio_screenshots.py docs/images

studio-kill: $(READY)  ## The studio's server killed at 100 random moments: nothing accepted is lost
	SAMTUNE_KILLS=100 $(BIN)/python -m pytest tests/test_studio_kill.py

# The official package wants a torchvision that torch's CPU build does not have: hence --no-deps, and stand-ins.
BENCH := build/bench/.ready

bench: $(BENCH)  ## samtune beside its peers, in turns; ten minutes on two quiet cores (BENCH_OPTIONS="--device cuda")
	build/bench/bin/python benchmarks/peers.py --out build/bench/peers.json $(BENCH_OPTIONS)

$(BENCH): requirements.lock pyproject.toml tests/parity/requirements.txt
	$(PYTHON) -m venv build/bench
	build/bench/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.lock -r tests/parity/requirements.txt
	build/bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps sam2==1.1.0 --editable .
	@touch $@

real-sets: $(READY)  ## The main job on the real sets under SAMTUNE_REAL_DATA; a quarter of half an hour
	$(BIN)/python benchmarks/real_sets.py $(addprefix $(REAL)/,lens_coco plants_coco nanoshapes_coco)

verdict-proofs: $(READY)  ## What the verdict says of ruined labels, boxes only and a blend, on real sets; an hour
	$(BIN)/python benchmarks/verdict_proofs.py $(REAL)/lens_coco $(REAL)/nanoshapes_coco:0.5,0.25,0.25
	$(BIN)/python benchmarks/verdict_proofs.py $(REAL)/lens_coco:0.5,0.25,0.25 $(REAL)/plants_coco:0.6,0.2,0.2 \
	  $(REAL)/nanoshapes_coco:0.5,0.25,0.25 --steps 1000 --click-lr 4e-4 --box-steps 1200 --lr 2e-3 --objects 200 \
	  --proofs boxes blend
	$(BIN)/python benchmarks/verdict_proofs.py $(REAL)/nanoshapes_coco:0.5,0.25,0.25 --steps 1000 --click-lr 4e-4 \
	  --box-steps 500 --lr 1e-3 --objects 200 --proofs boxes blend

data-curves: $(READY)  ## Held-out IoU against training images on five real sets; hours on two cores; goes on where it was
	$(BIN)/python benchmarks/data_curves.py $(addprefix $(REAL)/,lens_coco plants_coco:0.6,0.1,0.3 \
	  nanoshapes_coco:0.5,0.25,0.25 nuts_coco:0.6,0.1,0.3 kudzu_via:0.6,0.1,0.3) \
	  --out build/data-curves --image docs/images/data-curves.png $(CURVE_OPTIONS)

evaluation-cost: $(READY)  ## What evaluating 10,000 objects costs beside the decoder; ten minutes on a quiet core
	$(BIN)/python benchmarks/evaluation_cost.py $(REAL)/nanoshapes_coco --out build/evaluation-cost

finder-sets: $(READY)  ## The finder on the real sets under SAMTUNE_REAL_DATA, three seeds; an hour on one core
	$(BIN)/python benchmarks/finder_sets.py $(addprefix $(REAL)/,lens_coco nuts_coco:0.6,0.2,0.2 plants_coco \
	  nanoshapes_coco kudzu_via:0.6,0.2,0.2) --out build/finder-sets --seeds 3 --grid 2 --few 10 25 50

ablation: $(READY)  ## The recipes against the plain one on the real sets under SAMTUNE_REAL_DATA; hours on two cores; goes on where it was
	$(BIN)/python benchmarks/ablation.py $(addprefix $(REAL)/,lens_coco plants_coco nanoshapes_coco nuts_coco kudzu_via) \
	  --out build/ablation --seeds 3 $(ABLATION_OPTIONS)

parity: build/parity/.ready  ## Every size of SAM 2.0 and 2.1 against the official package; half an hour
	$(BIN)/python -m pytest -m slow -s tests/parity

build/parity/.ready: $(READY) tests/parity/requirements.txt
	$(PYTHON) -m venv build/parity
	build/parity/bin/python -m pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt
	build/parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps sam2==1.1.0
	@touch $@

bench-prepare: $(READY)  ## prepare's throughput and memory beside the plain loop, 1,000 to 100,000 objects
	$(BIN)/python benchmarks/prepare.py --out build/bench-prepare.json --real $(wildcard $(REAL)/nanoshapes_coco)

bench-large: $(READY)  ## One image of 30,000 x 30,000 pixels in tiles: prepare, tune, predict; hours on two cores
	$(BIN)/python benchmarks/large_image.py --folder build/large --out build/bench-large.json $(BENCH_OPTIONS)

lock:  ## Pin what a fresh install gives today
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[tensorboard,pandas]' --group dev
	build/lock/bin/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools \
	  | sed -e 's/^torch @ .*/torch==2.13.0/; s/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build dist
