#!/usr/bin/env bash
# All that benchmarks/README.md wants from a GPU, the most wanted first, each with a limit in seconds (22 minutes in all).
#
#     bash benchmarks/gpu.sh OUT DATA [NAME ...]     OUT: folder for the outputs; DATA: folder with CIFAR-10
#
# NAME: of the measurements below, for some of them. What fails or ends late does not stop the rest, but makes the exit
# status 1. Runs this clone's code, in an environment that has the packages of pip install -e '.[test]' but the peers.
set -u
out=$(realpath -m "${1:?OUT, a folder for the outputs, is missing}")
data=$(realpath "${2:?DATA, the folder with CIFAR-10, is missing}")
wanted=" ${*:3} "
mkdir -p "$out"
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
failed=0
asked=$wanted

measure() { # name, limit, command
    local name=$1 limit=$2 status
    shift 2
    [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
    asked=${asked/ $name / }
    echo "== $name: $*"
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    status=$?
    ((status)) && failed=1
    echo "exit $status" >>"$out/$name.txt"
    tail -n 25 "$out/$name.txt"
}

# what is missing, before device time goes by; the first use of CUDA also reads its libraries from disk
"$python" -c "import allround, jsonschema, pytest, yaml, torch; x = torch.ones(64, 64, device='cuda'); print((x @ x).sum())" || exit 1

selection=("$python" benchmarks/selection.py)
tests=$(grep -rlE 'mark\.gpu' tests)
measure round 150 "$python" benchmarks/round.py --data "$data" --labels 22000 25000 --device cuda --log "$out/stages.txt"
measure tests 120 "$python" -m pytest -m gpu -rs $tests
measure training 90 "$python" benchmarks/training.py --learner resnet18_paper --batch 128 --seconds 5 --device cuda
measure badge 60 "${selection[@]}" --device cuda --n 43000 --classes 10 --d 512 --budget 3000 --half --strategies badge --dense-gb 0
measure gpu-50k 150 "${selection[@]}" --work gpu-50k --repeats 2 --limit 20
measure gpu-imagenet 90 "${selection[@]}" --work gpu-imagenet --repeats 1 --limit 80
measure rounds 180 "$python" benchmarks/round.py --data "$data" --labels 1000 7000 13000 --strategies --device cuda
measure gpu-1m 300 "${selection[@]}" --work gpu-1m --repeats 1 --limit 95 --strategies coreset typiclust cluster_margin
measure gpu-1m-max_herding 100 "${selection[@]}" --work gpu-1m --repeats 1 --limit 95 --strategies max_herding
measure training-others 120 "$python" benchmarks/training.py --learner resnet18_paper --batch 64 512 --seconds 5 --device cuda
[[ $asked =~ ^\ *$ ]] || { echo "no such measurement:$asked" && failed=1; }
exit $failed
