#!/usr/bin/env bash
# Stops what up.sh DIR started, by its pid files, and removes DIR: jobs first, so that none outlives it.
set -u
dir=$1
export SLURM_CONF=$dir/slurm.conf
if [ -s "$dir/run/slurmctld.pid" ]; then
  scancel --signal=KILL --full --user="$(id -un)" 2>/dev/null
  scancel --user="$(id -un)" 2>/dev/null
  for _ in $(seq 50); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
fi
daemons=$(cat "$dir"/run/slurmd.*.pid "$dir"/run/slurmctld.pid "$dir"/run/munged.pid 2>/dev/null)
kill $daemons 2>/dev/null
for _ in $(seq 30); do kill -0 $daemons 2>/dev/null || break; sleep 0.1; done
# slurmctld may take ten seconds to write down a state that nobody will read.
for daemon in $daemons; do kill -0 "$daemon" 2>/dev/null && kill -9 "$daemon"; done
rm -rf "$dir"
