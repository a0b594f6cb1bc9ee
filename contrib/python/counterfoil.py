"""A client in a few lines of the standard library, written from protocol.md alone.

It proves the document, and shows what a client in another language has to do: handshake, frames
with a checksum, ids that are made before sending. It is no product: one request at a time, no
retries. Use: python3 counterfoil.py HOST:PORT
"""

import os
import socket
import struct
import sys
import time
import zlib

HELLO, WELCOME, REFUSED, REQUEST, RECEIPTS, ROWS = 1, 2, 3, 16, 17, 18
OPEN_IF_MISSING = 1
CODES = {0: "ok", 1: "exists", 2: "not_found", 6: "over_cap", 7: "insufficient", 32: "id_reused"}


def frame(kind, body, request=0):
    head = struct.pack("<HHIQ", kind, 0, 0, request)
    length = struct.pack("<I", 8 + len(head) + len(body))
    crc = struct.pack("<I", zlib.crc32(length + head + body))
    return length + crc + head + body


class Client:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=15)
        self.request = 0
        incarnation = int.from_bytes(os.urandom(16), "little") | 1
        hello = struct.pack("<4sHHB3xI", b"CFL1", 1, 1, 1, 0) + bytes(16)
        hello += (incarnation & (1 << 127) - 1).to_bytes(16, "little")
        self.socket.sendall(frame(HELLO, hello))
        kind, _, body = self.read()
        if kind == REFUSED:
            raise ConnectionError(body[12:].decode())
        assert kind == WELCOME
        self.cluster = body[8:24]
        server_ms = struct.unpack_from("<Q", body, 24)[0]
        self.offset_ms = server_ms - int(time.time() * 1000)

    def take(self, size):
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def read(self):
        length = self.take(4)
        rest = self.take(struct.unpack("<I", length)[0] - 4)
        assert zlib.crc32(length + rest[4:]) == struct.unpack_from("<I", rest)[0]
        kind, _flags, _epoch, request = struct.unpack_from("<HHIQ", rest, 4)
        return kind, request, rest[20:]

    def new_id(self):
        ms = int(time.time() * 1000) + self.offset_ms
        drawn = int.from_bytes(os.urandom(10), "little")
        low = drawn & (1 << 62) - 1
        return ms << 80 | 7 << 76 | (drawn >> 62 & 0xFFF) << 64 | 2 << 62 | low

    def operation(self, kind, user, currency, amount=0, ident=0, flags=0):
        head = struct.pack("<BxHIII", kind, flags, currency, 0, 0)
        ids = user.to_bytes(16, "little") + ident.to_bytes(16, "little")
        return head + ids + struct.pack("<QQ", amount, 0) + bytes(32)

    def execute(self, operations):
        """Sends a batch; the receipts in its order. Rows of a listing are in `rows` after it."""
        self.request += 1
        body = struct.pack("<II", len(operations), 5000) + b"".join(operations)
        self.socket.sendall(frame(REQUEST, body, self.request))
        receipts, self.rows = {}, []
        while len(receipts) < len(operations):
            kind, request, body = self.read()
            assert kind in (RECEIPTS, ROWS) and request == self.request
            for at in range(8, len(body), 64) if kind == ROWS else ():
                self.rows.append(struct.unpack_from("<IIqQQQQQQ", body, at))
            for at in range(8, len(body), 48) if kind == RECEIPTS else ():
                fields = struct.unpack_from("<HHHxxqQQQQ", body, at)
                names = ("index", "code", "flags", "available", "held", "version", "place", "amount")
                receipts[fields[0]] = dict(zip(names, fields))
        return [receipts[index] for index in range(len(operations))]


def main():
    client = Client(sys.argv[1])
    user = int.from_bytes(os.urandom(12), "little") + 1
    everything = client.operation(33, user, 0, 256)
    nobody = client.execute([everything])[0]
    assert CODES[nobody["code"]] == "not_found" and not client.rows, nobody
    ident = client.new_id()
    credit = client.operation(4, user, 1, 100, ident, OPEN_IF_MISSING)
    first = client.execute([credit])[0]
    assert (first["code"], first["available"]) == (0, 100), first
    again = client.execute([credit])[0]
    assert again["flags"] & 1 and again["version"] == first["version"], again
    debit = client.operation(5, user, 1, 130, client.new_id())
    get = client.operation(32, user, 1)
    refused, shown = client.execute([debit, get])
    assert CODES[refused["code"]] == "insufficient", refused
    assert shown["available"] == 100, shown
    listed = client.execute([everything])[0]
    assert listed["code"] == 0 and [row[:3] for row in client.rows] == [(1, 0, 100)], client.rows
    print("python: credited 100 once although it was sent twice; balance", shown["available"])


if __name__ == "__main__":
    main()
