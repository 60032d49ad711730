#!/bin/bash
# up.sh DIR: a SLURM of three nodes (4 CPUs, 16 GB and 2 GPUs each, on paper) on this one machine, with accounting.
# Needs root and slurmctld, slurmd, slurmdbd, munged, mariadbd. For tests: it listens on localhost and knows no users.
set -euo pipefail
trap 'echo "up.sh line $LINENO: $BASH_COMMAND failed"' ERR
export PATH=$PATH:/usr/sbin:/sbin
L=$(realpath -m "$1")
C=$L/etc/slurm.conf
mkdir -p "$L"/{etc,state,spool,log,run,dev} /etc/slurm

if [ ! -e /run/munge/munge.socket.2 ] || ! munge -n >/dev/null 2>&1; then
  install -d -o munge -g munge -m 755 /run/munge
  [ -s /etc/munge/munge.key ] || setpriv --reuid munge --regid munge --clear-groups mungekey --create
  setpriv --reuid munge --regid munge --clear-groups munged --force
  touch "$L/run/munged-is-ours"
fi

# With a writable memory cgroup (v1) SLURM enforces memory; elsewhere it looks at its jobs every second.
confine="ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherParams=OverMemoryKill"
if [ -z "${ALLROUND_NO_CGROUP:-}" ] && mkdir /sys/fs/cgroup/memory/allround-probe 2>/dev/null; then
  rmdir /sys/fs/cgroup/memory/allround-probe
  confine="ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"
fi

cat > "$C" <<CONF
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$L/state
SlurmdSpoolDir=$L/spool/%n
SlurmctldPidFile=$L/run/slurmctld.pid
SlurmdPidFile=$L/run/slurmd.%n.pid
SlurmctldLogFile=$L/log/slurmctld.log
SlurmdLogFile=$L/log/slurmd.%n.log
SlurmdParameters=config_overrides
MpiDefault=none
$confine
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
DefMemPerCPU=500
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
KillWait=2
SlurmdTimeout=10
ReturnToService=2
GresTypes=gpu
NodeName=n[1-3] NodeAddr=127.0.0.1 NodeHostname=$(hostname -s) Port=[16821-16823] CPUs=4 RealMemory=16000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
CONF
for i in 0 1; do [ -e "$L/dev/nvidia$i" ] || mknod "$L/dev/nvidia$i" c 1 3; done    # /dev/null under another name
echo "NodeName=n[1-3] Name=gpu File=$L/dev/nvidia[0-1]" > "$L/etc/gres.conf"
cat > "$L/etc/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
CONF

S=$L/run/my/sock
mkdir -p "$L/mysql" "$L/run/my"    # as root: temporary folders are closed to other users
[ -d "$L/mysql/mysql" ] ||
  mariadb-install-db --no-defaults --user=root --datadir="$L/mysql" --skip-test-db >/dev/null 2>&1
setsid mariadbd --no-defaults --user=root --datadir="$L/mysql" --socket="$S" --skip-networking \
  --pid-file="$L/run/my/mariadb.pid" --log-error="$L/log/mariadb.log" >/dev/null 2>&1 </dev/null &
for _ in $(seq 3000); do mariadb-admin --no-defaults -S "$S" ping >/dev/null 2>&1 && break; sleep .1; done
mariadb --no-defaults -S "$S" -e "create database if not exists slurm_acct_db;
  create user if not exists slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost"
cat > "$L/etc/slurmdbd.conf" <<CONF
DbdHost=localhost
SlurmUser=root
AuthType=auth/munge
PidFile=$L/run/slurmdbd.pid
LogFile=$L/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
chmod 600 "$L/etc/slurmdbd.conf"
"$(dirname "$0")/daemon.sh" "$L" start slurmdbd

# Snakemake's plugin drops SLURM_CONF from the environment: the files have to lie where SLURM looks by itself.
for file in slurm gres cgroup; do ln -sfn "$L/etc/$file.conf" "/etc/slurm/$file.conf"; done
"$(dirname "$0")/daemon.sh" "$L" start slurmctld
for node in n1 n2 n3; do slurmd -N $node; done
for _ in $(seq 3000); do
  [ "$(sinfo -h -N -o %t 2>/dev/null | grep -c '^idle$')" = 3 ] && exit 0
  sleep .1
done
sinfo -R
exit 1
