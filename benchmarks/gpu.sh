#!/usr/bin/env bash
# All that benchmarks/README.md wants from a GPU, the most wanted first, each with a limit in seconds.
#
#     bash benchmarks/gpu.sh OUT DATA        OUT: folder for the outputs; DATA: folder with CIFAR-10 (default: data)
#
# About ten minutes on an H100. What fails or ends late does not stop the rest.
set -u
cd "$(dirname "$0")/.."
out=$1 data=${2:-data}
mkdir -p "$out"

measure() { # name, limit, command
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    echo "exit $?" >>"$out/$name.txt"
    tail -n 25 "$out/$name.txt"
}

measure round 150 python benchmarks/round.py --data "$data" --labels 25000 --device cuda
measure tests 120 python -m pytest -q tests/test_kernels.py tests/test_strategies.py tests/test_learners.py -k "gpu or cuda"
measure training 90 python benchmarks/training.py --learner resnet18_paper --batch 128 --seconds 5 --device cuda
measure badge 60 python benchmarks/selection.py --device cuda --n 43000 --classes 10 --d 512 --budget 3000 --half --strategies badge
measure gpu-50k 120 python benchmarks/selection.py --work gpu-50k --repeats 2
measure gpu-imagenet 90 python benchmarks/selection.py --work gpu-imagenet --repeats 1
measure rounds 180 python benchmarks/round.py --data "$data" --labels 1000 7000 13000 --strategies --device cuda
measure gpu-1m 400 python benchmarks/selection.py --work gpu-1m --repeats 1
measure training-others 120 python benchmarks/training.py --learner resnet18_paper --batch 64 512 --seconds 5 --device cuda
