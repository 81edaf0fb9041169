#!/usr/bin/env bash
# A real SLURM on this machine: two nodes of four cores and two pretended GPUs, for trying things out and for the tests.
#
#   slurm/local_cluster.sh up      start it (seconds), then say how to use it
#   slurm/local_cluster.sh env     the line that makes sbatch, squeue and the benchmark use it: eval "$(slurm/local_cluster.sh env)"
#   slurm/local_cluster.sh down    cancel its jobs and stop it
#
# Everything lies in one folder, CLUSTER_DIR; nothing is registered with the system and nothing is left running.
# Settings from the environment: CLUSTER_DIR, SLURM_PORT_BASE (ten ports from there on), SLURM_ACCOUNTING=dbd|none.
# Debian: RUNLEVEL=1 apt-get install --no-install-recommends slurmctld slurmd slurm-client munge slurmdbd \
#         slurm-wlm-mysql-plugin mariadb-server-core
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin # where Debian keeps daemons, and users don't look

USER_NAME=$(id -un)
CLUSTER_DIR=${CLUSTER_DIR:-${TMPDIR:-/tmp}/slurm-$USER_NAME}
PORT=${SLURM_PORT_BASE:-27000} # +0 slurmctld, +1 +2 slurmd, +8 mariadb, +9 slurmdbd
ACCOUNTING=${SLURM_ACCOUNTING:-dbd}
export SLURM_CONF=$CLUSTER_DIR/etc/slurm.conf

die() {
  echo "error: $*" >&2
  exit 1
}

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
  local seconds=$1
  shift
  for _ in $(seq $((seconds * 10))); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  die "waited ${seconds} s in vain for: $*; the logs are in $CLUSTER_DIR/log"
}

write_config() {
  mkdir -p "$CLUSTER_DIR"/{etc,run,log,state,spool/n1,spool/n2}
  chmod 755 "$CLUSTER_DIR" "$CLUSTER_DIR"/* # munge refuses sockets that not everybody can reach
  (umask 077 && head -c 128 /dev/urandom >"$CLUSTER_DIR/etc/munge.key")
  local accounting=AccountingStorageType=accounting_storage/none
  if [ "$ACCOUNTING" = dbd ]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((PORT + 9))
AccountingStoragePass=$CLUSTER_DIR/run/munge.sock
AccountingStorageTRES=gres/gpu"
  fi
  # cred_expire: a requeued job starts after 6 s instead of 121 s. config_overrides: believe the cores and memory below.
  cat >"$SLURM_CONF" <<CONF
ClusterName=bench
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$USER_NAME
SlurmdUser=$USER_NAME
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$CLUSTER_DIR/run/munge.sock,cred_expire=5
StateSaveLocation=$CLUSTER_DIR/state
SlurmdSpoolDir=$CLUSTER_DIR/spool/%n
SlurmctldPidFile=$CLUSTER_DIR/run/slurmctld.pid
SlurmdPidFile=$CLUSTER_DIR/run/slurmd-%n.pid
SlurmctldLogFile=$CLUSTER_DIR/log/slurmctld.log
SlurmdLogFile=$CLUSTER_DIR/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=5,bf_interval=5
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
MessageTimeout=10
JobRequeue=1
MaxArraySize=1001
GresTypes=gpu
$accounting
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + 2))] CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
CONF
  # a GPU needs a device file that exists; no driver is asked, and without cgroups nothing is locked away
  printf 'AutoDetect=off\nNodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n' >"$CLUSTER_DIR/etc/gres.conf"
  echo 'CgroupPlugin=cgroup/v1' >"$CLUSTER_DIR/etc/cgroup.conf" # the only one that this version starts with here
  : >"$CLUSTER_DIR/etc/plugstack.conf"
}

start_munge() {
  local run=$CLUSTER_DIR/run
  munged --key-file="$CLUSTER_DIR/etc/munge.key" --socket="$run/munge.sock" --pid-file="$run/munged.pid" \
    --log-file="$CLUSTER_DIR/log/munged.log" --seed-file="$run/munge.seed" --num-threads=2
  wait_for 10 munge -n -S "$run/munge.sock"
}

make_database() {
  local sql=/usr/share/mysql
  mkdir -p "$CLUSTER_DIR/mysql"
  {
    printf 'create database if not exists mysql;\nuse mysql;\nset @auth_root_socket=NULL;\n'
    cat $sql/mysql_system_tables.sql $sql/mysql_performance_tables.sql $sql/mysql_system_tables_data.sql | sed '/@current_hostname/d'
    printf "flush privileges;\ncreate database slurm_acct_db;\ncreate user slurm@'127.0.0.1' identified by 'slurm';\n"
    printf "grant all on slurm_acct_db.* to slurm@'127.0.0.1';\n"
  } >"$CLUSTER_DIR/etc/database.sql"
  mariadbd --no-defaults --bootstrap --user="$USER_NAME" --datadir="$CLUSTER_DIR/mysql" --innodb-log-file-size=16M \
    --innodb-buffer-pool-size=64M --log-warnings=0 <"$CLUSTER_DIR/etc/database.sql" >"$CLUSTER_DIR/log/database.log" 2>&1
}

start_accounting() {
  local run=$CLUSTER_DIR/run
  [ -d "$CLUSTER_DIR/mysql/mysql" ] || make_database
  mariadbd --no-defaults --user="$USER_NAME" --datadir="$CLUSTER_DIR/mysql" --socket="$run/mysql.sock" \
    --pid-file="$run/mariadbd.pid" --bind-address=127.0.0.1 --port=$((PORT + 8)) --skip-name-resolve \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF --log-error="$CLUSTER_DIR/log/mariadb.log" \
    </dev/null >/dev/null 2>&1 &
  disown
  wait_for 30 bash -c "exec 3<>/dev/tcp/127.0.0.1/$((PORT + 8))"
  (umask 077 && cat >"$CLUSTER_DIR/etc/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 9))
SlurmUser=$USER_NAME
LogFile=$CLUSTER_DIR/log/slurmdbd.log
PidFile=$run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 8))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
  slurmdbd
  wait_for 30 sacctmgr -n list cluster
  sacctmgr -n list cluster bench | grep -q bench || sacctmgr -i add cluster bench >/dev/null
}

both_nodes_idle() {
  [ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = 2 ]
}

up() {
  local needed="slurmctld slurmd sbatch munged"
  case $ACCOUNTING in
    dbd) needed="$needed slurmdbd mariadbd" ;;
    none) ;;
    *) die "SLURM_ACCOUNTING=$ACCOUNTING is not known; it is dbd or none" ;;
  esac
  for program in $needed; do
    command -v "$program" >/dev/null || die "$program is not installed; the Debian packages are named at the top of $0"
  done
  if running slurmctld; then die "the cluster in $CLUSTER_DIR is up already; $0 down stops it"; fi
  write_config
  start_munge
  if [ "$ACCOUNTING" = dbd ]; then start_accounting; fi
  slurmctld
  wait_for 30 sinfo
  slurmd -N n1
  slurmd -N n2
  wait_for 30 both_nodes_idle
  sinfo
  echo
  echo "To use it: $(print_env)"
}

print_env() {
  echo "export SLURM_CONF=$SLURM_CONF"
}

# running NAME: whether the daemon of this pid file lives: not a zombie, and not another program that got its process id
running() {
  local pid
  pid=$(cat "$CLUSTER_DIR/run/$1.pid" 2>/dev/null) || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${1%-n?}" ] && ! grep -qs '^State:.*Z' "/proc/$pid/status"
}

stop() {
  local file=$CLUSTER_DIR/run/$1.pid
  if running "$1"; then
    local pid
    pid=$(cat "$file")
    kill "$pid"
    for _ in $(seq 100); do
      if ! running "$1"; then break; fi
      sleep 0.1
    done
    if running "$1"; then kill -9 "$pid"; fi
  fi
  rm -f "$file"
}

# Jobs outlive the daemons, so they go first; killed rather than asked, nobody waits for what they would still save.
cancel_jobs() {
  scancel --state=PENDING --user="$USER_NAME" || true
  scancel --signal=KILL --full --user="$USER_NAME" || true
  scancel --user="$USER_NAME" || true
  for _ in $(seq 150); do
    if [ -z "$(squeue -h -o %i 2>/dev/null)" ]; then break; fi
    sleep 0.1
  done
}

down() {
  if running slurmctld; then cancel_jobs >/dev/null 2>&1; fi
  for daemon in slurmctld slurmd-n1 slurmd-n2 slurmdbd mariadbd munged; do stop $daemon; done
}

case ${1:-} in
  up) up ;;
  down) down ;;
  env) print_env ;;
  *) die "usage: $0 up|down|env" ;;
esac
