"""Subscribes and prints events, alerts, gaps and notices, one JSON object a line. After a break it resumes: no event is
lost. With --alerts it also gets the alerts to its user, and acknowledges each one that it has printed.

It needs only the package websockets (pip install websockets). docs/protocol.md explains the messages.
"""

import argparse
import asyncio
import json
import os
import random
import sys

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, WebSocketException
except ImportError as problem:
    sys.exit(f"{problem}: pip install --upgrade websockets")

# Close codes after which another attempt would end the same way, and those that ask for a pause.
FINAL = {1002, 1007, 4001, 4003, 4009, 4014}
AFTER = {1009, 1012, 4002, 4007, 4012, 4013, 4015}

# A close follows these errors, and its code says what to do.
CLOSING = {401, 402, 404}

# A request that is refused with this error may be sent again later.
TRY_AGAIN = 503

# A frame was too large, and was skipped. The gateway does not know its id.
TOO_LARGE = 417

# The id of the first frames of a connection. An acknowledgement has an id of its own.
BEGIN = 1

# How many early events the program remembers.
EARLY_MAX = 4096


class Session:
    """The state that a client keeps, so that it can resume after a break."""

    def __init__(self, subscriptions):
        self.subscriptions = subscriptions
        self.position = None
        self.seen = {}  # By partition: the highest sequence that did not arrive early.
        self.early = {}  # Events that arrived early, and may be sent again after a break.
        self.acks = {}  # The acknowledgements that are not answered yet, by their ids.
        self.reconnect = None  # The pause before the next connection that the gateway asked for, in seconds.
        self.failures = 0

    def begin(self):
        """The frames to send first on a connection."""
        acks = list(self.acks.values())
        if self.position is not None:
            resume = {"position": self.position, "seen": self.seen, "subscriptions": self.subscriptions}
            return [{"action": "resume", "id": BEGIN, **resume}, *acks]
        subscribe = {"action": "subscribe", "id": BEGIN}
        return [{**subscribe, "name": name, **wanted} for name, wanted in self.subscriptions.items()] + acks

    def acknowledge(self, alert):
        """The frame that acknowledges an event of kind alert. Each new connection sends it again until it is answered."""
        ack_id = f"ack {alert['p']}:{alert['seq']}"
        self.acks[ack_id] = {"action": "ack", "id": ack_id, "p": alert["p"], "seq": alert["seq"]}
        return self.acks[ack_id]

    def take(self, text):
        """The events, alerts, gaps and notices of a frame that are new. ValueError if the gateway refuses a request."""
        messages = json.loads(text)
        is_early = messages[0]["T"] == "early"
        for message in messages:
            self.position = message.get("position", self.position)
            match message["T"]:
                case "event" | "alert":
                    # An alert that comes again says nothing about the events before it.
                    if message.get("again") or self.is_new(message["p"], message["seq"], is_early):
                        yield message
                case "gap":
                    if message["reason"] == "reset":
                        self.seen.pop(str(message["p"]), None)
                        self.early.clear()
                    yield message
                case "notice":
                    yield message
                case "goaway":
                    self.reconnect = message["reconnect_ms"] / 1000
                case "subscribed":
                    self.failures = 0
                    print("subscribed", file=sys.stderr, flush=True)
                case "caught_up":
                    print("caught up", file=sys.stderr, flush=True)
                case "acked":
                    self.acks.pop(message["id"], None)
                case "error" if message["code"] in CLOSING:
                    print(message["msg"], file=sys.stderr, flush=True)
                case "error" if message["code"] != TRY_AGAIN and message.get("id") in self.acks:
                    print(message["msg"], file=sys.stderr, flush=True)
                    del self.acks[message["id"]]
                case "error" if "id" not in message and message["code"] != TOO_LARGE:
                    # A saved subscription of the user is not applied. The program itself has asked for nothing.
                    print(message["msg"], file=sys.stderr, flush=True)
                case "error":
                    # If the gateway cannot resume from this position, the next connection starts without it. What could
                    # not be done for the moment is asked for again by the next connection.
                    if message["code"] != TRY_AGAIN:
                        self.position = None
                    raise ValueError(message["msg"])

    def is_new(self, p, seq, is_early):
        is_known = self.early.pop((p, seq), False)
        if is_early:
            self.early[p, seq] = True
        else:
            self.seen[str(p)] = max(self.seen.get(str(p), 0), seq)
        if len(self.early) > EARLY_MAX:
            del self.early[next(iter(self.early))]
        return not is_known

    def pause(self, code, reason):
        """How many seconds to wait before the next connection. Ends the program if there should be none."""
        if code in FINAL:
            sys.exit(f"closed with {code}: {reason}")
        longest = min(0.5 * 2**self.failures, 15)
        self.failures += 1
        reconnect, self.reconnect = self.reconnect, None
        if reconnect is not None:
            return reconnect
        return random.uniform(7.5, 15) if code in AFTER else random.uniform(0, longest)


async def serve(arguments, session):
    """Serves one connection until it ends. Returns whether the program has received as many events as it should."""
    url = arguments.url + (f"?user={arguments.user}" if arguments.user else "")
    headers = {} if arguments.user else {"Authorization": f"Bearer {arguments.token}"}
    # A ping every ten seconds. After twenty without an answer the connection counts as lost. The package answers the
    # pings of the gateway.
    options = {"ping_interval": 10, "ping_timeout": 20, "additional_headers": headers}
    async with connect(url, subprotocols=["tickwire.v1.json"], **options) as socket:
        for frame in session.begin():
            await socket.send(json.dumps(frame))
        async for text in socket:
            for message in session.take(text):
                print(json.dumps(message), flush=True)
                if arguments.alerts and message.get("kind") == "alert":
                    await socket.send(json.dumps(session.acknowledge(message)))
                if message["T"] in ("event", "alert") and arguments.count is not None:
                    arguments.count -= 1
                    if arguments.count <= 0:
                        return True
    return False


async def follow(arguments):
    """Connects again after each break, until the program has received as many events as it should."""
    subscriptions = {"mine": {"filter": {"symbols": arguments.symbols.split(",")}}}
    if arguments.alerts:
        subscriptions["alerts"] = {"filter": {"kinds": ["alert"]}, "alert": True}
    session = Session(subscriptions)
    while True:
        code, reason = None, None
        try:
            if await serve(arguments, session):
                return
        except ConnectionClosed as closed:
            if closed.rcvd:
                code, reason = closed.rcvd.code, closed.rcvd.reason
        except (OSError, ValueError, WebSocketException) as problem:
            print(problem, file=sys.stderr, flush=True)
        await asyncio.sleep(session.pause(code, reason))


def main():
    parser = argparse.ArgumentParser(description="Subscribes and prints events, gaps and notices.")
    parser.add_argument("--url", default="ws://127.0.0.1:8080/v1/stream", help="the gateway")
    parser.add_argument("--token", default=os.environ.get("TICKWIRE_TOKEN"), help="visible to others: better set TICKWIRE_TOKEN")
    parser.add_argument("--user", help="a user instead of a token, for a gateway with auth.mode = \"dev\"")
    parser.add_argument("--symbols", default="AAPL,NVDA,SPY", help="the symbols to subscribe to")
    parser.add_argument("--alerts", action="store_true", help="also print the alerts to the user, and acknowledge them")
    parser.add_argument("--count", type=int, help="end after this many events (default: with Ctrl-C)")
    arguments = parser.parse_args()
    if not arguments.user and not arguments.token:
        parser.error("no credentials: set TICKWIRE_TOKEN, or give --token or --user")
    try:
        asyncio.run(follow(arguments))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
