"""Machines of a network of their own, made of Linux namespaces: each has its address, host name,
processes, /proc and shared memory, and a directory for what it keeps to itself. They share the rest
of the file system.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

NETWORK = "10.77.0"
_SWITCH = "ip link add dev switch type bridge && ip link set switch up"
# /sys shows the network of whoever mounted it. A shell as process 1 collects orphans
_MACHINE = """
mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$3" &&
mount --bind "$2" /etc/hosts && hostname "$1" && ip link set lo up
"""
_STAY = "&& echo ready; cat"  # until whoever made the machine closes its end, or is gone


def why_not() -> str | None:
    """Why no machines can be made here; None where they can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"machines need {', '.join(missing)} (util-linux, iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", _SWITCH],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces may be made: {tried.stderr.strip()}" if tried.returncode else None


class Machine:
    """A machine that is on until `cut_power`.

    Args:
        name: its host name.
        address: on the network.
        home: a directory that is its user's home.
        own: a path that every machine has, with files of its own.
        hosts: its table of names.
    """

    def __init__(self, name: str, address: str, home: Path, own: Path, hosts: Path) -> None:
        self.name, self.address, self.home, self.own = name, address, home, own
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc"]
        self._keeper, self.init = _started(spaces, _MACHINE, name, str(hosts), str(own))

    def command(self, words: Sequence[str]) -> list[str]:
        """Words that run `words` on this machine."""
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        return ["nsenter", f"--target={self.init}", *spaces, "--", *words]

    def cut_power(self) -> None:
        """All of its processes and its network are gone at once."""
        if self._keeper.poll() is None:
            os.kill(self.init, signal.SIGKILL)
        self._keeper.wait()


class Network(ExitStack):
    """A switch, and the machines that are plugged into it. At the end of its context
    all machines lose power.

    Args:
        home: a directory for the machines' homes and their table of names.
        names: host names of all machines that there may be, in the order of their addresses.
    """

    def __init__(self, home: Path, names: Sequence[str]) -> None:
        super().__init__()
        self._home = home
        self.addresses = {name: f"{NETWORK}.{i + 1}" for i, name in enumerate(names)}
        self._hosts, self._own = home / "hosts", home / "own"
        self._own.mkdir()
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, address in self.addresses.items()]
        self._hosts.write_text("\n".join(lines) + "\n")
        self._keeper, self._switch = _started(["--net", "--pid"], _SWITCH)
        self.callback(self._keeper.wait)
        self.callback(os.kill, self._switch, signal.SIGKILL)

    def switch_on(self, name: str) -> Machine:
        """A machine of that name, with an empty home."""
        home = self._home / name
        home.mkdir()
        machine = Machine(name, self.addresses[name], home, self._own, self._hosts)
        self.callback(machine.cut_power)
        plug = f"port{machine.address.rpartition('.')[2]}"
        ip = ["nsenter", f"--target={self._switch}", "--net", "ip"]
        cable = ["type", "veth", "peer", "name", "eth0", "netns", str(machine.init)]
        for words in (
            [*ip, "link", "add", "dev", plug, *cable],
            [*ip, "link", "set", plug, "master", "switch", "up"],
            machine.command(["ip", "address", "add", f"{machine.address}/24", "dev", "eth0"]),
            machine.command(["ip", "link", "set", "eth0", "up"]),
        ):
            subprocess.run(words, check=True)
        return machine


def _started(
    spaces: Sequence[str], script: str, *words: str
) -> "tuple[subprocess.Popen[str], int]":
    """A shell in namespaces of its own that has run `script` and stays: the process that waits for
    it, and its number.
    """
    command = ["unshare", *spaces, "--fork", "--kill-child", "bash", "-c", script.strip() + _STAY]
    keeper = subprocess.Popen(
        [*command, "machine", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # unshare's own complaint when a machine loses power
        text=True,
        start_new_session=True,
    )
    assert keeper.stdout is not None
    if keeper.stdout.readline() != "ready\n":
        keeper.kill()
        raise RuntimeError(f"a machine did not start: {script}")
    children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    return keeper, int(children[0])
