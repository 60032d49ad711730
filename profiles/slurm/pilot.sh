#!/bin/bash
# A pilot: one allocation of a node, in which the workstation's profile runs with the node's cores and GPUs. From the
# repository, with snakemake on the PATH (sbatch hands the environment on):
#
#     sbatch profiles/slurm/pilot.sh                               the study that config/config.yaml names
#     sbatch profiles/slurm/pilot.sh --config study=cifar10-fast   arguments go to snakemake
#
# It stops by itself before the time is over; submitted again, it goes on. docs/cluster.md says when this is better than
# a job for each training. Options of sbatch before the script's name override those below.
#
#SBATCH --job-name=allround-pilot
#SBATCH --output=allround-pilot-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus=1
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@900
#SBATCH --no-requeue
# edit: account and partition, e.g. with #SBATCH --account=mine and #SBATCH --partition=gpu

grace=${GRACE:-600}                 # seconds that running jobs get to finish after the signal; less than its @900

run= stopped=
stop() {
  stopped=1
  [ -n "$run" ] || { echo "pilot: signalled at once; --time is no longer than what --signal asks for"; exit 1; }
  echo "pilot: the time is nearly over; no new jobs, the running ones get $grace s"
  kill -TERM $run                   # snakemake then starts nothing more and waits for its jobs
  (sleep "$grace"; kill -INT -- -$run) 2> /dev/null &   # as Ctrl-C: jobs stop, trainings keep their last epoch
  timer=$!
}
trap stop TERM

set -m                              # a process group for snakemake; without it bash lets it ignore SIGINT
snakemake --cores "${SLURM_CPUS_PER_TASK:-1}" "$@" &      # it finds the allocation's GPUs by CUDA_VISIBLE_DEVICES
run=$!
wait $run
code=$?
while kill -0 $run 2> /dev/null; do wait $run; code=$?; done    # a trap ends a wait
if [ -n "$stopped" ]; then
  kill $timer 2> /dev/null
  echo "pilot: stopped before its time was over; the same sbatch command goes on"
fi
exit $code
