"""What is lost when servers lose their power: acknowledged events that the stream does not have afterwards."""

import threading
import time

from .client import ACK, Client, Gone
from .servers import wait_for
from .speed import subject

RATE = 500


class Flow(threading.Thread):
    """Publishes numbered events at a fixed rate to one server, and keeps what was acknowledged. It tries nothing again."""

    def __init__(self, server, first):
        super().__init__(daemon=True)
        self.client, self.next, self.ended = Client(server.port), first, threading.Event()
        self.acknowledged = {}  # number -> (sequence, moment)
        self.start()

    def run(self):
        begin, first = time.monotonic(), self.next
        try:
            while not self.ended.is_set():
                due = first + int((time.monotonic() - begin) * RATE)
                if due > self.next:
                    self.client.publish(range(self.next, due), subject, lambda number: b"%-300d" % number)
                    self.next = due
                self.take(self.client.answers(0.002))
            for _ in range(20):
                self.take(self.client.answers(0.05))
        except Gone:
            pass  # the server was killed
        finally:
            self.client.close()

    def take(self, answers):
        now = time.monotonic()
        for number, answer in answers:
            if found := ACK.search(answer):
                self.acknowledged[number] = (int(found[1]), now)

    def stop(self):
        self.ended.set()
        self.join(30)
        return self.next


class Ledger:
    """All flows of a case, compared with what is stored afterwards."""

    def __init__(self, cluster):
        self.cluster, self.flows, self.next, self.cut_at = cluster, [], 0, None

    def publish(self, server):
        self.flows.append(Flow(server, self.next))
        return self.flows[-1]

    def stop(self):
        self.next = self.flows[-1].stop() + 1

    def more(self, server, seconds=2):
        """Publishes again, from when an event is acknowledged."""

        def acknowledged():
            flow = self.publish(server)
            time.sleep(1)
            self.stop()
            return len(flow.acknowledged)

        wait_for("events are stored again", acknowledged, 40)
        self.publish(server)
        time.sleep(seconds)
        self.stop()

    def result(self):
        """What each copy lacks of what was acknowledged. A copy that does not catch up is None."""
        copies = self.cluster.copies()
        acknowledged = {number: known for flow in self.flows for number, known in flow.acknowledged.items()}
        lost = [None if copy is None else {
            number for number, (sequence, _) in acknowledged.items()
            if copy.get(sequence, b"").strip() != b"%d" % number
        } for copy in copies]
        numbers = set().union(*(of_copy for of_copy in lost if of_copy))
        moments = [acknowledged[number][1] for number in numbers]
        whole = [copy for copy in copies if copy is not None]
        return {
            "acknowledged": len(acknowledged),
            "lost": [None if of_copy is None else len(of_copy) for of_copy in lost],
            "lost_seconds": max(moments) - min(moments) if moments else 0.0,
            "copies_equal": len(whole) == len(copies) and all(copy == copies[0] for copy in copies),
        }


def crash(cluster, seconds):
    """Every process is killed at once. The machines keep running."""
    return at_once(cluster, seconds, "kill")


def power_of_all(cluster, seconds):
    """Every machine loses its power at once."""
    return at_once(cluster, seconds, "cut")


def at_once(cluster, seconds, how):
    ledger = Ledger(cluster)
    ledger.publish(cluster.leader())
    time.sleep(seconds)
    for server in cluster.servers:
        server.kill()
    ledger.stop()
    for server in cluster.servers:
        getattr(server, how)()
    for server in cluster.servers:
        server.start()
    ledger.more(cluster.leader())
    return ledger.result()


def roles(cluster):
    """The leader of the stream, and the two others."""
    leader = cluster.leader()
    return leader, *(server for server in cluster.servers if server is not leader)


def power_of_follower(cluster, seconds):
    """A follower loses its power, and comes back while events are stored."""
    leader, follower, _ = roles(cluster)
    return one_of_three(cluster, seconds, follower, leader)


def power_of_leader(cluster, seconds):
    """The leader loses its power. Another one leads when it comes back."""
    leader, follower, _ = roles(cluster)
    return one_of_three(cluster, seconds, leader, follower)


def one_of_three(cluster, seconds, victim, connected):
    ledger = Ledger(cluster)
    ledger.publish(connected)
    time.sleep(seconds)
    victim.cut()
    ledger.stop()
    ledger.more(connected)
    victim.start()
    ledger.more(connected)
    return ledger.result()


def leader_dies_as_it_returns(cluster, seconds):
    """A follower loses its power. When it is back, before it has everything, the leader's process is killed."""
    leader, victim, other = roles(cluster)
    ledger = Ledger(cluster)
    ledger.publish(other)
    time.sleep(seconds)
    victim.cut()
    ledger.stop()
    ledger.more(other)
    victim.start()
    leader.kill()
    ledger.more(other)
    leader.start()
    return ledger.result()


def while_one_is_away(cluster, seconds):
    """One process is stopped, as for an upgrade. A second server loses its power. Both come back; the third one ran."""
    return one_away(cluster, seconds, third_dies=False)


def while_one_is_away_and_the_third_dies(cluster, seconds):
    """The same, but the third one's process is killed too, and comes back last."""
    return one_away(cluster, seconds, third_dies=True)


def one_away(cluster, seconds, third_dies):
    leader, victim, away = roles(cluster)
    ledger = Ledger(cluster)
    away.kill()
    ledger.more(leader, seconds)
    if third_dies:
        leader.kill()
    victim.cut()
    victim.start()
    away.start()
    ledger.more(away)
    if third_dies:
        leader.start()
    return ledger.result()
