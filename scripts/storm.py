#!/usr/bin/env python3
"""How running sessions fare while clients log in and leave, over and over.

    storm.py --port 6432 --pid PID [--rate 1000] [--seconds 10] [--wrong] [--tls] [--beside PORT]

Sessions that are there already ask `SELECT 1` again and again: first alone, then in the storm, and then alone
once more. Printed: their p50 and p99 each time, the logins per second that there really were, and the proxy's
processor time for each (what the sessions themselves take is measured alone and taken off).

Whoever makes a storm needs a processor too. The storm therefore comes from processes of its own, which give way to
everything else (nice); and with --beside the same storm is first sent to what listens there (PostgreSQL itself,
PgBouncer) while the sessions stay where they are: what they suffer then is the machine's share, not the proxy's.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import multiprocessing
import os
import ssl
import struct
import time


# Processes that make the storm.
HANDS = 2


def sha(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


class Scram:
    """Proves one user; the rounds are done once for a salt, as no storm could afford them each time."""

    def __init__(self, user, password, tls=False):
        self.user, self.password, self.salted, self.tls = user, password, {}, None
        if tls:
            self.tls = ssl.create_default_context()
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def keys(self, salt, rounds):
        if (salt, rounds) not in self.salted:
            made = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, rounds)
            self.salted[salt, rounds] = made
        return self.salted[salt, rounds]

    async def login(self, port, database):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if self.tls:
            writer.write(struct.pack(">II", 8, 80877103))
            if await reader.readexactly(1) != b"S":
                raise OSError("no TLS there")
            await writer.start_tls(self.tls)
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


async def storm(arguments, port, counts):
    scram = Scram("app", "wrong" if arguments.wrong else "app", arguments.tls)

    async def one():
        try:
            entered = await scram.login(port, "app")
            counts[0 if entered else 1] += 1
            if entered:
                entered[1].close()
        except (OSError, asyncio.IncompleteReadError):
            counts[2] += 1

    running, next_at = set(), time.monotonic()
    until = next_at + arguments.seconds
    while time.monotonic() < until:
        next_at += HANDS / arguments.rate
        await asyncio.sleep(max(0, next_at - time.monotonic()))
        if len(running) < 250:
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
    await asyncio.gather(*running)


def hand(arguments, port, counts):
    os.nice(10)
    asyncio.run(storm(arguments, port, counts))


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
    phases = [("alone", None), ("in the storm", arguments.port), ("alone again", None)]
    if arguments.beside:
        phases.insert(1, ("beside the same storm", arguments.beside))
    used, logins = {}, 0
    for title, port in phases:
        times, began = [], time.monotonic()
        before = processor_time(arguments.pid)
        counts = [multiprocessing.Array("i", 3, lock=False) for _ in range(HANDS)]
        hands = [multiprocessing.Process(target=hand, args=(arguments, port, mine)) for mine in counts if port]
        for one in hands:
            one.start()
        await asyncio.gather(*[ask(session, began + arguments.seconds, times) for session in sessions])
        used[title] = processor_time(arguments.pid) - before
        for one in hands:
            one.join()
        entered, refused, failed = (sum(of_kind) for of_kind in zip(*counts))
        count = entered + refused + failed
        logins = count if port == arguments.port else logins
        print(f"{title}: {told(times)}" + (
            f"; {count / arguments.seconds:.0f} logins a second, {refused} refused, {failed} failed" if port else ""
        ))
    each = max(0, used["in the storm"] - used["alone"]) / max(1, logins)
    print(f"{each * 1e6:.0f} µs of the proxy's processor time for each login")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--pid", type=int, required=True)
parser.add_argument("--rate", type=float, default=1000)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--wrong", action="store_true", help="with a wrong password")
parser.add_argument("--tls", action="store_true", help="the storm comes over TLS")
parser.add_argument("--beside", type=int, help="where the same storm is sent first")
asyncio.run(main(parser.parse_args()))
