"""The Internet's delay: reads packets from a TUN device and puts each back so many milliseconds later, in order.

`delay.py NAME MILLISECONDS` makes the device in the namespace it runs in, prints "ready", and ends with its input. A
process instead of `tc netem`, which many kernels of virtual machines do without; one packet costs it some 20 us.
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
# As many packets as a second of 100 Mbit/s: what comes on top is dropped, as a router does.
MOST = 8_000


def main():
    name, seconds = sys.argv[1], float(sys.argv[2]) / 1000
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except OSError:
        pass
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    print("ready", flush=True)
    waiting = collections.deque()
    poll = select.poll()
    poll.register(tun, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) * 1000 if waiting else None
        # poll() counts whole milliseconds, rounded up: the last one is waited for actively in short sleeps.
        ready = poll.poll(None if wait is None else int(wait))
        for fd, _ in ready:
            if fd == 0 and not os.read(0, 64):
                return
        now = time.monotonic()
        while len(waiting) < MOST:
            try:
                waiting.append((now + seconds, os.read(tun, 65_535)))
            except BlockingIOError:
                break
        if not ready and waiting and 0 < waiting[0][0] - now < 0.001:
            time.sleep(waiting[0][0] - now)
            now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            try:
                os.write(tun, waiting.popleft()[1])
            except OSError:
                pass  # A packet that the kernel refuses is lost.


main()
