#!/bin/bash
# daemon.sh DIR start|stop slurmctld|slurmdbd|slurmd.<node>: one daemon of the cluster that up.sh started in DIR.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
L=$(realpath "$1")
name=$3
if [ "$2" = stop ]; then
  pid=$(cat "$L/run/$name.pid")
  kill "$pid"
  for _ in $(seq 3000); do kill -0 "$pid" 2>/dev/null || exit 0; sleep .1; done
  exit 1
fi
case $name in
slurmdbd)
  SLURM_CONF=$L/etc/slurm.conf MYSQL_UNIX_PORT=$L/run/my/sock slurmdbd
  for _ in $(seq 3000); do (exec 3<>/dev/tcp/127.0.0.1/6819) 2>/dev/null && exit 0; sleep .1; done
  exit 1 ;;
slurmctld)
  slurmctld
  for _ in $(seq 3000); do scontrol ping 2>/dev/null | grep -q UP && exit 0; sleep .1; done
  exit 1 ;;
slurmd.*) slurmd -N "${name#slurmd.}" ;;
esac
