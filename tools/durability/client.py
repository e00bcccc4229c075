"""A small NATS client over one blocking socket. A client library would cost more than what is measured."""

import base64
import json
import re
import socket
import time

ACK = re.compile(rb'"seq":\s*(\d+)')


class Gone(Exception):
    """The connection has ended, or an answer did not come in time."""


class Client:
    """One connection. Answers come to `inbox.<number>`."""

    inbox = b"_INBOX.durability"

    def __init__(self, port):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise Gone(f"port {port}: {error}") from error
        self.unread = b""
        self.asked = 1 << 40
        self.send(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB %s.* 1\r\nPING\r\n' % self.inbox)
        deadline = time.monotonic() + 5
        while b"PONG" not in self.unread:
            if time.monotonic() > deadline or not self.read(0.5):
                raise Gone(f"port {port}: no answer")
        self.unread = b""

    def close(self):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.settimeout(5)
            self.socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from error

    def publish(self, numbers, subject, payload):
        """Publishes one event for each number. The number is the last token of where its answer goes."""
        self.send(b"".join(
            b"PUB %s %s.%d %d\r\n%s\r\n" % (subject(number), self.inbox, number, len(payload(number)), payload(number))
            for number in numbers
        ))

    def read(self, seconds):
        """Waits for bytes. Returns whether some came."""
        try:
            self.socket.settimeout(max(seconds, 0.0001))
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return False
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("the server has ended the connection")
        self.unread += data
        return True

    def answers(self, seconds):
        """The answers that have come, at least one unless the time ends: pairs of number and body."""
        found = self.parse()
        deadline = time.monotonic() + seconds
        while not found and (left := deadline - time.monotonic()) > 0:
            self.read(left)
            found = self.parse()
        return found

    def parse(self):
        found, at = [], 0
        while (end := self.unread.find(b"\r\n", at)) >= 0:
            words = self.unread[at:end].split()
            if words and words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                if len(self.unread) < end + 4 + size:
                    break
                found.append((int(words[1].rsplit(b".", 1)[1]), self.unread[end + 2:end + 2 + size]))
                end += 2 + size
            elif words and words[0] == b"PING":
                self.send(b"PONG\r\n")
            at = end + 2
        self.unread = self.unread[at:]
        return found

    def request(self, subject, body=None, seconds=5):
        """Asks JetStream, and returns its answer. Answers to anything else are passed over."""
        self.asked += 1
        text = json.dumps(body).encode() if body is not None else b""
        self.send(b"PUB $JS.API.%s %s.%d %d\r\n%s\r\n" % (subject.encode(), self.inbox, self.asked, len(text), text))
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for number, answer in self.answers(left):
                if number == self.asked:
                    if not answer.startswith(b"{"):
                        raise Gone(f"{subject}: nobody answers")
                    return json.loads(answer)
        raise Gone(f"{subject}: no answer")

    def stored(self, stream):
        """Everything in the stream by its leader's copy: the payloads by sequence."""
        state = self.request(f"STREAM.INFO.{stream}")["state"]
        sequences = range(state["first_seq"], state["last_seq"] + 1)
        subject = b"$JS.API.STREAM.MSG.GET.%s" % stream.encode()
        found, sent, came = {}, 0, 0
        while came < len(sequences):
            ask = sequences[sent:min(came + 256, len(sequences))]
            if ask:
                self.publish(ask, lambda _: subject, lambda number: b'{"seq":%d}' % number)
                sent += len(ask)
            answers = self.answers(5)
            if not answers:
                raise Gone("the stream cannot be read")
            for number, answer in answers:
                if number > sequences.stop:
                    continue
                came += 1
                message = json.loads(answer).get("message") if answer.startswith(b"{") else None
                if message:
                    found[number] = base64.b64decode(message.get("data", ""))
        return found
