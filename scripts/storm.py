#!/usr/bin/env python3
"""How running sessions fare while clients log in and leave, over and over.

    storm.py --port 6432 --pid PID [--rate 1000] [--seconds 10] [--wrong]

Sessions that are there already ask `SELECT 1` again and again, first alone, then in the storm. Printed: their
p50 and p99 in both, the logins per second that there really were, and the proxy's processor time for each
(what the sessions themselves take is measured alone and taken off).
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import os
import struct
import time


def sha(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


class Scram:
    """Proves one user; the rounds are done once for a salt, as no storm could afford them each time."""

    def __init__(self, user, password):
        self.user, self.password, self.salted = user, password, {}

    def keys(self, salt, rounds):
        if (salt, rounds) not in self.salted:
            made = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, rounds)
            self.salted[salt, rounds] = made
        return self.salted[salt, rounds]

    async def login(self, port, database):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = struct.pack(">I", 196608)
        body += b"user\0%s\0database\0%s\0\0" % (self.user.encode(), database.encode())
        writer.write(struct.pack(">I", len(body) + 4) + body)
        await message(reader)
        nonce = base64.b64encode(os.urandom(18))
        bare = b"n=,r=" + nonce
        first = b"n,," + bare
        send(writer, b"p", b"SCRAM-SHA-256\0" + struct.pack(">I", len(first)) + first)
        challenge = (await message(reader))[1][4:]
        fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
        salted = self.keys(base64.b64decode(fields[b"s"]), int(fields[b"i"]))
        client_key = sha(salted, b"Client Key")
        last = b"c=biws,r=" + fields[b"r"]
        signature = sha(hashlib.sha256(client_key).digest(), bare, b",", challenge, b",", last)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        send(writer, b"p", last + b",p=" + base64.b64encode(proof))
        while True:
            kind, _ = await message(reader)
            if kind == b"Z":
                return reader, writer
            if kind == b"E":
                writer.close()
                return None


async def message(reader):
    kind, length = struct.unpack(">cI", await reader.readexactly(5))
    return kind, await reader.readexactly(length - 4)


def send(writer, kind, body):
    writer.write(kind + struct.pack(">I", len(body) + 4) + body)


async def ask(connection, until, times):
    reader, writer = connection
    while time.monotonic() < until:
        began = time.monotonic()
        send(writer, b"Q", b"SELECT 1\0")
        while (await message(reader))[0] != b"Z":
            pass
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.01)


async def storm(arguments, until, counts):
    scram = Scram("app", "wrong" if arguments.wrong else "app")

    async def one():
        try:
            entered = await scram.login(arguments.port, "app")
            counts["in" if entered else "refused"] += 1
            if entered:
                entered[1].close()
        except (OSError, asyncio.IncompleteReadError):
            counts["failed"] += 1

    running, next_at = set(), time.monotonic()
    while time.monotonic() < until:
        next_at += 1 / arguments.rate
        await asyncio.sleep(max(0, next_at - time.monotonic()))
        if len(running) < 500:
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
    await asyncio.gather(*running)


def processor_time(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(times):
    times.sort()
    return "p50 %.2f ms, p99 %.2f ms of %d" % (
        times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000, len(times))


async def main(arguments):
    scram = Scram("app", "app")
    sessions = [await scram.login(arguments.port, "app") for _ in range(8)]
    used = []
    for title, stormy in [("alone", False), ("in the storm", True)]:
        times, counts = [], {"in": 0, "refused": 0, "failed": 0}
        until, before = time.monotonic() + arguments.seconds, processor_time(arguments.pid)
        work = [ask(session, until, times) for session in sessions]
        if stormy:
            work.append(storm(arguments, until, counts))
        await asyncio.gather(*work)
        used.append(processor_time(arguments.pid) - before)
        print(f"{title}: {told(times)}")
    logins = sum(counts.values())
    print(f"{logins / arguments.seconds:.0f} logins a second ({counts}), "
          f"{max(0, used[1] - used[0]) / max(1, logins) * 1e6:.0f} µs of processor time each")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--pid", type=int, required=True)
parser.add_argument("--rate", type=float, default=1000)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--wrong", action="store_true", help="with a wrong password")
asyncio.run(main(parser.parse_args()))
