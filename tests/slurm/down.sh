#!/bin/bash
# down.sh DIR: stop the cluster that up.sh started in DIR, and what still runs on it.
export PATH=$PATH:/usr/sbin:/sbin
L=$(realpath "$1")
if [ "$(readlink /etc/slurm/slurm.conf)" = "$L/etc/slurm.conf" ]; then    # never on another cluster
  scancel --state=PENDING --user="$(id -un)" 2>/dev/null
  scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null    # a pilot would outlive a TERM
  for _ in $(seq 300); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep .1; done
fi
pids=("$L"/run/slurmd.*.pid "$L/run/slurmctld.pid" "$L/run/slurmdbd.pid" "$L/run/my/mariadb.pid")
[ -e "$L/run/munged-is-ours" ] && pids+=(/run/munge/munged.pid)
for file in "${pids[@]}"; do
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  kill "$pid" 2>/dev/null
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep .1; done
done
for file in slurm gres cgroup; do
  [ "$(readlink "/etc/slurm/$file.conf")" = "$L/etc/$file.conf" ] && rm -f "/etc/slurm/$file.conf"
done
exit 0
