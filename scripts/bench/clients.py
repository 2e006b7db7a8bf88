"""Clients of PostgreSQL's protocol, as little as is needed: to log in, to be silent, to be flooded."""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct

_salted = {}


def _salt(password, salt, rounds):
    key = (password, salt, rounds)
    if key not in _salted:
        _salted[key] = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), rounds)
    return _salted[key]


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Client:
    """One connection, logged in as app."""

    def __init__(self, port, tls=False):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        if tls:
            self.socket.sendall(struct.pack("!ii", 8, 80877103))
            if self.socket.recv(1) != b"S":
                raise RuntimeError("no TLS")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        body = struct.pack("!i", 196608) + b"user\0app\0database\0app\0\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self._log_in()

    def _read(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(65536)
            if not more:
                raise RuntimeError(f"the server hung up after {self.buffer!r}")
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def _message(self):
        kind, length = struct.unpack("!ci", self._read(5))
        body = self._read(length - 4)
        if kind == b"E":
            raise RuntimeError(body.replace(b"\0", b" ").decode(errors="replace"))
        return kind, body

    def _send(self, kind, body):
        self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _log_in(self):
        bare, auth = "", ""
        while True:
            kind, body = self._message()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (code,) = struct.unpack("!i", body[:4])
            if code == 10:
                bare = "n=,r=" + base64.b64encode(os.urandom(18)).decode()
                first = ("n,," + bare).encode()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif code == 11:
                challenge = body[4:].decode()
                parts = dict(part.split("=", 1) for part in challenge.split(","))
                salted = _salt("app", parts["s"], int(parts["i"]))
                client_key = _hmac(salted, "Client Key")
                final = "c=biws,r=" + parts["r"]
                auth = ",".join([bare, challenge, final])
                signature = _hmac(hashlib.sha256(client_key).digest(), auth)
                proof = bytes(a ^ b for a, b in zip(client_key, signature))
                self._send(b"p", f"{final},p={base64.b64encode(proof).decode()}".encode())
            elif code not in (0, 12):
                raise RuntimeError(f"authentication method {code}")

    def flood(self, query):
        """Runs a query and throws its answer away; how many bytes it had."""
        self._send(b"Q", query.encode() + b"\0")
        chunk, seen, last = bytearray(1 << 18), 0, b""
        while last != b"Z\0\0\0\5I":
            count = self.socket.recv_into(chunk)
            if not count:
                raise RuntimeError("the server hung up")
            seen += count
            last = (last + chunk[max(count - 6, 0):count])[-6:]
        return seen

    def close(self):
        self._send(b"X", b"")
        self.socket.close()
