"""Runs a command on a terminal of its own, types keys, and checks that the terminal is as before when it has ended.

The first argument says how to end it: `key` or `signal`. The others are the command, a `tickwire top`.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

DEADLINE = 30.0

controller, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
before = termios.tcgetattr(terminal)
command = subprocess.Popen(sys.argv[2:], stdin=terminal, stdout=terminal, stderr=terminal)
seen = b""
end = time.monotonic() + DEADLINE


def read():
    """Reads what the command has drawn."""
    global seen
    if time.monotonic() > end:
        command.kill()
        sys.exit(f"too late; seen: {seen!r}")
    if select.select([controller], [], [], 0.1)[0]:
        seen += os.read(controller, 65536)


def until(text):
    """Waits until the command has drawn a text, and forgets what was before."""
    global seen
    while text not in seen:
        if command.poll() is not None:
            sys.exit(f"ended with {command.returncode}; seen: {seen!r}")
        read()
    seen = seen.split(text, 1)[1]


until(b"\x1b[?1049h")
until(b"nodes ready 2/2")
until(b"GATEWAY")
until(b"sorted by name")
if termios.tcgetattr(terminal)[3] & termios.ECHO:
    sys.exit("keys are echoed")
os.write(controller, b"s")
until(b"sorted by sessions")
os.write(controller, b"p")
until(b"PAUSED")
if sys.argv[1] == "key":
    os.write(controller, b"q")
else:
    command.send_signal(signal.SIGTERM)
while command.poll() is None:
    read()
while select.select([controller], [], [], 0.1)[0]:
    seen += os.read(controller, 65536)
if command.returncode != 0:
    sys.exit(f"ended with {command.returncode}; seen: {seen!r}")
if b"\x1b[?1049l" not in seen or b"\x1b[?25h" not in seen:
    sys.exit(f"the screen of before is not back; seen: {seen!r}")
if termios.tcgetattr(terminal) != before:
    sys.exit("the modes of the terminal are not as before")
