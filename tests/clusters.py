"""Clusters of two nodes on this machine, SLURM's and Ray's, in a folder of their own and gone afterwards."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NODES = ("one", "two")
SLURM_CONF = """\
ClusterName=xconsensus
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1024
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1024
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running SLURM cluster; ``environment`` makes sbatch and its like use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        host, user = socket.gethostname(), subprocess.check_output(["id", "-un"], text=True).strip()
        text = SLURM_CONF.format(folder=folder, host=host, user=user, ports=free_ports(3))
        (folder / "slurm.conf").write_text(text)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start munge, the controller and both nodes, and wait until they are idle."""
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._run("munge", "munged", "--foreground", "--force", f"--log-file={self.folder}/munge.log", *options)
        wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._run("controller", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "two idle SLURM nodes")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._run(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of a node and all that runs there, as when its power fails."""
        self.processes[node].kill()
        jobs = [pid for pid in pids() if f"SLURMD_NODENAME={node}" in environment_of(pid)]
        for pid in {*jobs, *(parent for pid in jobs if "slurmstepd" in command_of(parent := parent_of(pid)))}:
            kill(pid)

    def ask(self, *command: str) -> str:
        """What a SLURM command prints; nothing where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def running(self) -> list[str]:
        """The jobs that run, as 7_0 is one of array 7."""
        return self.ask("squeue", "-h", "-r", "-t", "running", "-o", "%i").split()

    def stop(self) -> None:
        """Cancel all jobs and stop everything."""
        for job in self.ask("squeue", "-h", "-o", "%i").split():
            self.ask("scancel", job)
        for node in NODES:
            self.kill_node(node)
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A SLURM cluster of two nodes with one core each."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Ray:
    """A running Ray cluster; ``environment`` makes ray.init join it. Its token lets nobody else in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.token = secrets.token_hex(32)
        self.program = str(Path(sys.executable).with_name("ray"))
        mine = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self.environment = {**os.environ, **mine, "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self) -> None:
        """Start a head and a second node."""
        port = self.address.partition(":")[2]
        self._node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self._node(f"--address={self.address}")
        wait_for(lambda: self.nodes() == len(NODES), "two Ray nodes")

    def nodes(self) -> int:
        """How many nodes are active."""
        command = [self.program, "status", f"--address={self.address}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.partition("Pending:")[0].count("node_")

    def processes(self) -> list[int]:
        """All processes of the cluster."""
        return [pid for pid in pids() if f"RAY_AUTH_TOKEN={self.token}" in environment_of(pid)]

    def jobs(self) -> list[int]:
        """The processes that work on a job; they write their name over their environment."""
        nodes = self.processes()
        return [pid for pid in pids() if command_of(pid).startswith("ray::_run_job") and parent_of(pid) in nodes]

    def stop(self) -> None:
        """Stop everything."""
        for pid in self.processes():
            kill(pid)

    def _node(self, *options: str) -> None:
        command = [self.program, "start", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", *options]
        subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, check=True)


@contextmanager
def ray(folder: Path) -> Iterator[Ray]:
    """A Ray cluster of two nodes with one core each; sockets limit the length of ``folder``."""
    cluster = Ray(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return once ``holds()``; TimeoutError naming ``what`` otherwise."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def pids() -> Sequence[int]:
    """All processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def environment_of(pid: int) -> list[str]:
    """NAME=VALUE of a process; nothing of one that is gone or not ours."""
    return _read(pid, "environ").split("\0")


def command_of(pid: int) -> str:
    """The command line of a process."""
    return _read(pid, "cmdline").replace("\0", " ")


def parent_of(pid: int) -> int:
    """The parent of a process; 0 of one that is gone."""
    return int((_read(pid, "stat").rpartition(")")[2].split() or ["", "0"])[1])


def kill(pid: int) -> None:
    """Kill a process, gone already or not."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
