#!/usr/bin/env bash
# A real Slurm of three emulated nodes on this machine's loopback, without systemd, for the tests marked `slurm`.
#   tests/slurm/up.sh DIR     everything it makes lies in DIR; then: export SLURM_CONF=DIR/slurm.conf
# Exits 77 with the reason where that cannot be. tests/slurm/down.sh DIR stops it.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
nodes=3 cpus=4

cannot() { echo "no Slurm here: $*" >&2; exit 77; }
needed() { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; }

[ "$(id -u)" = 0 ] || cannot "its daemons have to be started by root"
if ! needed >/dev/null; then
  command -v apt-get >/dev/null || cannot "slurmctld, slurmd, slurm-client and munge are not installed, and there is no apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      slurmctld slurmd slurm-client munge; } >"$dir/apt.log" 2>&1 || cannot "apt-get could not install it ($(tail -n 1 "$dir/apt.log"))"
  needed >/dev/null || cannot "Debian's packages lack one of its daemons"
fi

# Ports of its own, so that several clusters may run side by side.
free() { for each in $(seq "$1" $(($1 + nodes))); do (: <"/dev/tcp/127.0.0.1/$each") 2>/dev/null && return 1; done; true; }
port=$((17000 + RANDOM % 300 * 10))
until free "$port"; do port=$((port + 10)); done

host=$(hostname -s)
getent ahostsv4 "$host" | grep -q '^127\.' || echo "127.0.0.1 $host" >>/etc/hosts # or nodes register elsewhere
mkdir -p "$dir"/{state,spool,log,run}
chmod 0711 "$dir" # munged is wary of folders that others may write
(umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed" || cannot "munged does not start"

cat >"$dir/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
# Neither cgroups nor a database: what a bare machine can do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_min_interval=200000,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=1
KillWait=20
MinJobAge=300
MaxArraySize=50
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=n[1-$nodes] Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=n[1-$nodes] MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld -i
for node in $(seq "$nodes"); do slurmd -N "n$node"; done
for _ in $(seq 100); do
  [ "$(sinfo -h -N -p low -o %T 2>/dev/null | grep -c idle)" = "$nodes" ] && exit 0
  sleep 0.1
done
echo "Slurm's nodes did not come up; the last words of its daemons:" >&2
tail -n 5 "$dir"/log/*.log >&2
exit 1
