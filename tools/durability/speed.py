"""What storing events costs: latency, throughput, processor time, and what reaches the disk."""

import collections
import os
import re
import shutil
import statistics
import subprocess
import time

from .client import ACK

PAYLOAD = (b'{"symbol":"S0001","pattern":"BreakoutBO","tier":"daily","confidence":0.87,"n":' + b"0" * 220 + b"}")[:300]


def subject(number):
    return b"events.pattern.S%04d" % (number % 500)


def publish(client, seconds, in_flight=None, rate=None):
    """Publishes for so long, with a number of events that wait for their answer, or at a rate. Returns the latencies."""
    sent, latencies, at = 0, [], collections.OrderedDict()
    begin = time.monotonic()
    while True:
        now = time.monotonic()
        over = now >= begin + seconds
        if over and not at:
            return latencies
        room = in_flight - len(at) if rate is None else int((now - begin) * rate) - sent
        if not over and room > 0:
            numbers = range(sent, sent + min(room, 64))
            at.update((number, now) for number in numbers)
            client.publish(numbers, subject, lambda _: PAYLOAD)
            sent = numbers.stop
        answers = client.answers(5 if rate is None or over else 0.0005)
        if not answers and (rate is None or over):
            raise SystemExit(f"{len(at)} events were not acknowledged")
        now = time.monotonic()
        for number, answer in answers:
            if not ACK.search(answer):
                raise SystemExit(f"an event was not stored: {answer[:200]}")
            latencies.append(now - at.pop(number))


def load(cluster, seconds, **how):
    """One load on a cluster, and its figures."""
    client = cluster.client(cluster.leader())
    publish(client, 0.3, **how)
    for server in cluster.servers:
        server.disk.sync()
    time.sleep(0.2)
    cpu = sum(server.cpu() for server in cluster.servers)
    disk = [server.disk.written() for server in cluster.servers]
    begin = time.monotonic()
    latencies = publish(client, seconds, **how)
    took = time.monotonic() - begin
    cpu = sum(server.cpu() for server in cluster.servers) - cpu
    flushes = sum(server.disk.written()[2] - old[2] for server, old in zip(cluster.servers, disk))
    for server in cluster.servers:
        server.disk.sync()  # Linux writes the rest later
    disk = [[new - old for new, old in zip(server.disk.written(), old)] for server, old in zip(cluster.servers, disk)]
    client.close()
    latencies.sort()
    events = len(latencies)
    return {
        "events_per_second": events / took,
        "p50_ms": latencies[events // 2] * 1000,
        "p99_ms": latencies[events * 99 // 100] * 1000,
        "cpu_us_per_event": cpu / events * 1e6,
        "disk_bytes_per_event": sum(one[1] for one in disk) / events,
        "disk_writes_per_event": sum(one[0] for one in disk) / events,
        "disk_flushes_per_event": flushes / events,
    }


def calls(cluster, folder, in_flight):
    """Write and sync calls to files per event, counted by strace, of all servers together."""
    tracers = []
    events = 2000
    client = cluster.client(cluster.leader())
    try:
        for server in cluster.servers:
            output = folder / f"calls-{server.name}"
            output.write_text("")
            command = ["strace", "-f", "-y", "-e", "trace=write,writev,pwrite64,fsync,fdatasync", "-o", output]
            tracers.append((server, output, subprocess.Popen(
                [*command, "-p", str(server.child.pid)], stderr=subprocess.DEVNULL)))
        time.sleep(1)
        done = 0
        while done < events:
            numbers = range(done, min(done + in_flight, events))
            client.publish(numbers, subject, lambda _: PAYLOAD)
            waiting = len(numbers)
            while waiting:
                answers = client.answers(10)
                if not answers:
                    raise SystemExit("no acknowledgement while strace counts")
                waiting -= len(answers)
            done = numbers.stop
        time.sleep(0.5)
    finally:
        client.close()
        for _, _, tracer in tracers:
            tracer.terminate()
            tracer.wait()
    counted = collections.Counter()
    for server, output, _ in tracers:
        of_store = re.compile(rf"(write|writev|pwrite64|fsync|fdatasync)\(\d+<{re.escape(str(server.disk.path))}/")
        for line in output.read_text(errors="replace").splitlines():
            if found := of_store.search(line):
                counted["syncs" if "sync" in found[1] else "writes"] += 1
    return {"write_calls_per_event": counted["writes"] / events, "sync_calls_per_event": counted["syncs"] / events}


def disk_itself(disk):
    """How long this disk takes to make 300 bytes durable, in milliseconds: p50, p99."""
    path, took = disk.path / "probe", []
    with open(path, "wb", buffering=0) as file:
        for _ in range(300):
            begin = time.monotonic()
            file.write(PAYLOAD)
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - begin)
    path.unlink()
    took.sort()
    return {"fdatasync_p50_ms": took[150] * 1000, "fdatasync_p99_ms": took[297] * 1000}


def median(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def has_strace():
    return shutil.which("strace") is not None
