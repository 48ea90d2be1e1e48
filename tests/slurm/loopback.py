"""A SLURM controller and two nodes of one core each, on the loopback interface of this machine."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
ReturnToService=1
KillWait=20
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={port_1} CPUs=1 RealMemory=2000
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={port_2} CPUs=1 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""
_DAEMONS = ("slurmctld -D -i", "slurmd -D -N n1", "slurmd -D -N n2")


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def lacking() -> str:
    """What this machine lacks; empty if nothing."""
    names = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    return ", ".join(names) or ("root" if os.geteuid() else "")


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Starts it, and ends it with its jobs."""
    (folder / "state").mkdir()
    ports = dict(zip(("port", "port_1", "port_2"), _free_ports(3), strict=True))
    conf = _CONF.format(folder=folder, host=socket.gethostname().partition(".")[0], **ports)
    (folder / "slurm.conf").write_text(conf)
    os.environ.update(SLURM_CONF=str(folder / "slurm.conf"), MASTER_ADDR="127.0.0.1")
    daemons = []
    try:
        for daemon in _DAEMONS:
            with (folder / f"{daemon}.txt").open("w") as log:
                daemons.append(subprocess.Popen(daemon.split(), stdout=log, stderr=log))
        deadline = time.monotonic() + 30
        while "idle" not in subprocess.getoutput("sinfo --noheader --format='%D %T'"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
        subprocess.run(["scancel", "--user=root"], check=False)
        wait_for(lambda: not slurm("squeue", "--noheader"))
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        for name in ("SLURM_CONF", "MASTER_ADDR"):
            del os.environ[name]


def wait_for(condition, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
