"""nats-servers, each with its store on a file system of its own, whose power can be cut.

A file system is ext4 in a file that is mounted by a loop device. A cut is the `shutdown` of ext4 without a flush of its
log (what the file system tests of Linux use): from that moment on nothing reaches the file, and what Linux had not
written yet is lost. The next mount recovers the log, as after a loss of power.
"""

import fcntl
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from .client import Client, Gone

STREAM = "EVENTS"
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = 2
TICKS = os.sysconf("SC_CLK_TCK")
HANDED_OUT, HANDING_OUT = set(), threading.Lock()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def free_ports(count):
    """Ports that are free, outside the range from which Linux takes those of connections: servers come back to them."""
    found = []
    with HANDING_OUT:
        while len(found) < count:
            port = random.randint(20_000, 30_000)
            try:
                socket.create_server(("127.0.0.1", port)).close()
            except OSError:
                continue
            if port not in HANDED_OUT:
                HANDED_OUT.add(port)
                found.append(port)
    return found


class Disk:
    """A file system of 1 GB, which takes no space until something is written."""

    def __init__(self, folder):
        self.image, self.path = folder / "image", folder / "disk"
        self.path.mkdir(parents=True)
        with open(self.image, "wb") as image:
            image.truncate(1 << 30)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.mounted = False
        self.mount()

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)
        self.mounted = True
        self.device = Path(run("findmnt", "-n", "-o", "SOURCE", self.path)).name

    def unmount(self):
        if self.mounted:
            run("umount", self.path)
            self.mounted = False

    def cut(self):
        """The loss of power. The server must have been killed."""
        opened = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(opened, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(opened)
        self.unmount()
        self.mount()

    def sync(self):
        run("sync", "-f", self.path)

    def written(self):
        """What the device has taken since it was mounted: write requests, bytes, flushes."""
        fields = [int(field) for field in Path(f"/sys/block/{self.device}/stat").read_text().split()]
        return fields[4], fields[6] * 512, fields[15]


class Server:
    """One nats-server. It is started again on the same ports and store."""

    def __init__(self, binary, folder, name, sync, port, routes):
        self.binary, self.name, self.port, self.child = binary, name, port, None
        self.disk = Disk(folder)
        self.log = open(folder / "log", "ab")
        self.config = folder / "nats.conf"
        setting = f", sync_interval: {sync}" if sync else ""
        lines = [f"server_name: {name}", f"listen: 127.0.0.1:{port}"]
        lines += [f'jetstream {{ store_dir: "{self.disk.path}/store", max_file_store: 8GB{setting} }}']
        if routes:
            others = ", ".join(f"nats://127.0.0.1:{route}" for route in routes[1:])
            lines += [f"cluster {{ name: durability, listen: 127.0.0.1:{routes[0]}, routes: [{others}] }}"]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self):
        self.child = subprocess.Popen([self.binary, "-c", self.config], stdout=self.log, stderr=self.log)

    def kill(self):
        if self.child:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()
            self.child = None

    def cut(self):
        """The server's machine loses its power."""
        self.kill()
        self.disk.cut()

    def cpu(self):
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self):
        self.kill()
        self.log.close()
        self.disk.unmount()


class Cluster:
    """One server, or three, with the stream of tickwire."""

    def __init__(self, binary, folder, replicas, sync):
        self.replicas, self.servers = replicas, []
        ports, routes = free_ports(replicas), free_ports(replicas) if replicas > 1 else []
        try:
            for index in range(replicas):
                mine = routes[index:] + routes[:index]
                self.servers.append(Server(binary, folder / f"n{index}", f"n{index}", sync, ports[index], mine))
                self.servers[-1].start()
            self.create()
        except BaseException:
            self.close()
            raise

    def create(self):
        config = {
            "name": STREAM, "subjects": ["events.*.*"], "num_replicas": self.replicas, "storage": "file",
            "retention": "limits", "discard": "old", "max_bytes": 4 << 30, "max_age": 24 * 3600 * 10**9,
            "max_msg_size": 1 << 20, "duplicate_window": 120 * 10**9, "allow_direct": True,
            "subject_transform": {
                "src": "events.*.*", "dest": "ev.{{partition(32,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}",
            },
        }

        def created():
            client = self.client()
            try:
                return "error" not in client.request(f"STREAM.CREATE.{STREAM}", config)
            finally:
                client.close()

        wait_for("the stream is created", created, 30)
        self.whole()
        for server in self.servers:
            server.disk.sync()  # that there is a stream is not what is lost here

    def client(self, server=None):
        """A connection to this server, or to the first that runs."""
        running = next((server for server in self.servers if server.child), None) if server is None else server
        return Client(running.port)

    def info(self):
        client = self.client()
        try:
            return client.request(f"STREAM.INFO.{STREAM}", seconds=2)
        finally:
            client.close()

    def leader(self):
        """The server that leads the stream, when there is one."""
        if self.replicas == 1:
            return self.servers[0]

        def named():
            name = self.info().get("cluster", {}).get("leader")
            return next((server for server in self.servers if server.name == name and server.child), None)

        return wait_for("the stream has a leader", named, 40)

    def behind(self):
        """The names of the servers that do not have everything, by what the leader knows."""
        if self.replicas == 1:
            return set()
        cluster = self.info().get("cluster", {})
        lagging = {
            other["name"] for other in cluster.get("replicas") or []
            if not other.get("current") or other.get("lag") or other.get("offline")
        }
        known = {other["name"] for other in cluster.get("replicas") or []} | {cluster.get("leader")}
        return lagging | {server.name for server in self.servers if server.name not in known}

    def whole(self):
        """Waits until every server has everything."""
        wait_for("every server has everything", lambda: not self.behind(), 30)

    def copies(self):
        """What each server has stored, read while it leads. None for a server that does not catch up in 15 s."""
        self.leader()
        deadline = time.monotonic() + 15
        while (behind := self.behind()) and time.monotonic() < deadline:
            time.sleep(0.2)
        found = []
        for server in self.servers:
            if server.name in behind:
                found.append(None)
                continue

            def leads(server=server):
                if self.leader() is server:
                    return True
                client = self.client()
                try:
                    client.request(f"STREAM.LEADER.STEPDOWN.{STREAM}", {"placement": {"preferred": server.name}})
                finally:
                    client.close()
                time.sleep(0.5)
                return self.leader() is server

            wait_for(f"{server.name} leads", leads, 40)
            client = self.client()
            try:
                found.append(client.stored(STREAM))
            finally:
                client.close()
        return found

    def close(self):
        for server in self.servers:
            server.close()


def wait_for(what, condition, seconds):
    """Asks until the answer is not false. Connections that end meanwhile are asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except Gone:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"{seconds} s have passed, and it is not so that {what}")
        time.sleep(0.1)
