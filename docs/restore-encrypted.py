#!/usr/bin/env python3
"""Restore an encrypted base backup of a wal-e archive without wal-e.

It needs gpg with the private key of a recipient, zstd, and the Python module
cryptography (Debian: gnupg zstd python3-cryptography). The archive must be a
local directory. docs/format.md says what every byte means.

    restore-encrypted.py ARCHIVE NAME TARGET
"""
import base64, glob, json, os, struct, subprocess, sys
import hashlib, hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PAGE = 8192


def hkdf_extract(salt, secret):
    return hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()


def hkdf_expand(key, info, length):
    out = block = b""
    while len(out) < length:
        block = hmac.new(key, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:length]


def derive(secret, label, run=b"", n=0):
    return hkdf_expand(hkdf_extract(b"", secret), label.encode() + b"\0" + run + struct.pack("<I", n), 32)


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def run_key(private, enc, epoch, run):
    """HPKE (RFC 9180), base mode: X25519 with HKDF-SHA256, AES-256-GCM; the exported secret."""
    key = X25519PrivateKey.from_private_bytes(private)
    kem, suite = b"KEM" + struct.pack(">H", 0x20), b"HPKE" + struct.pack(">HHH", 0x20, 1, 2)

    def extract(suite, salt, label, secret):
        return hkdf_extract(salt, b"HPKE-v1" + suite + label + secret)

    def expand(suite, key, label, info):
        return hkdf_expand(key, struct.pack(">H", 32) + b"HPKE-v1" + suite + label + info, 32)

    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    shared = expand(kem, extract(kem, b"", b"eae_prk", dh), b"shared_secret", enc + raw(key.public_key()))
    info = b"wal-e 006 run\0" + epoch + run
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    exporter = expand(suite, extract(suite, shared, b"secret", b""), b"exp", context)
    return expand(suite, exporter, b"sec", b"wal-e 006 run")


def unbox(key, n, header, sealed):
    return AESGCM(key).decrypt(struct.pack(">QI", 0, n), bytes(sealed), bytes(header))


def run_bytes(text):
    """24 bytes in 39 characters of Crockford's base 32."""
    n = 0
    for c in text:
        n = n << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(c)
    return (n >> 3).to_bytes(24, "big")


class Bytes:
    def __init__(self, b):
        self.b, self.at = b, 0

    def take(self, n):
        self.at += n
        return self.b[self.at - n:self.at]

    def uvarint(self):
        value = shift = 0
        while True:
            c = self.take(1)[0]
            value |= (c & 127) << shift
            shift += 7
            if c < 128:
                return value

    def string(self):
        return self.take(self.uvarint())

    def left(self):
        return self.at < len(self.b)


class Archive:
    def __init__(self, directory, name):
        self.dir = directory
        outcomes = sorted(glob.glob(f"{directory}/basebackups_006/{name}/*.outcome"))
        live = [o for o in outcomes if not os.path.exists(o[:-8].replace("basebackups_006", "deleted_006"))]
        self.outcome = [o for o in map(self.envelope, live) if o["result"] == "commit"][-1]
        self.epoch = bytes.fromhex(self.outcome["epoch"])
        message = sorted(glob.glob(f"{directory}/chunks_006/keys/{self.outcome['epoch']}/*.pgp"))[-1]
        opened = subprocess.run(["gpg", "--batch", "--quiet", "-d", message], check=True, stdout=subprocess.PIPE)
        secrets = json.loads(opened.stdout)
        self.dedup, self.private = bytes.fromhex(secrets["dedup_key"]), bytes.fromhex(secrets["private_key"])
        public = raw(X25519PrivateKey.from_private_bytes(self.private).public_key())
        assert derive(self.dedup, "wal-e 006 epoch", public)[:16] == self.epoch, "the secrets are not those of the epoch"
        run = run_bytes(self.outcome["sealed_by"])
        sealed = base64.b64decode(self.outcome["sealed_manifest"])
        self.manifest = json.loads(unbox(derive(self.dedup, "wal-e 006 manifest", run), 0, b"", sealed))
        self.chunks, self.keys, self.cache = {}, {}, {}
        for part in self.outcome["footprint"]:
            bitmap = base64.b64decode(part["packs"])
            for n in range(len(bitmap) * 8):
                if bitmap[n // 8] >> n % 8 & 1:
                    self.directory(part["run"], n)

    @staticmethod
    def envelope(path):
        with open(path, "rb") as f:
            return json.loads(f.read().split(b"\n", 1)[1])

    def directory(self, run, n):
        path = f"{self.dir}/chunks_006/packs/{run}/{n:08d}"
        with open(path, "rb") as f:
            pack = f.read()
        assert pack[:12] == b"WALEPACK" + struct.pack("<I", 2) and pack[16:32] == self.epoch, path
        raw = run_bytes(run)
        if run not in self.keys:
            self.keys[run] = run_key(self.private, pack[32:64], self.epoch, raw)
        length = struct.unpack("<I", pack[-24:-20])[0]
        d = Bytes(unbox(derive(self.dedup, "wal-e 006 directory", raw, n), 0, b"", pack[-24 - length:-24]))
        d.uvarint(), d.uvarint()
        for _ in range(d.uvarint()):
            offset, stored, start = d.uvarint(), d.uvarint(), 0
            for _ in range(d.uvarint()):
                chunk, size = bytes(d.take(16)), d.uvarint()
                self.chunks[chunk] = (run, n, offset, stored, start, size)
                start += size

    def record(self, run, n, offset, stored):
        where = (run, n, offset)
        if where not in self.cache:
            with open(f"{self.dir}/chunks_006/packs/{run}/{n:08d}", "rb") as f:
                f.seek(offset)
                b = f.read(stored)
            flags, kind, chunks, number = struct.unpack("<BBHI", b[4:12])
            if kind == 1:
                key = derive(self.dedup, "wal-e 006 node", run_bytes(run), n)
            else:
                key = derive(self.keys[run], "wal-e 006 pack", run_bytes(run), n)
            body = unbox(key, number, b[:24], b[32:])[4 * chunks:]
            if flags & 1:
                body = subprocess.run(["zstd", "-dcq"], input=body, check=True, stdout=subprocess.PIPE).stdout
            if len(self.cache) > 64:
                self.cache.clear()
            self.cache[where] = body
        return self.cache[where]

    def chunk(self, name):
        run, n, offset, stored, start, size = self.chunks[bytes(name)]
        return self.record(run, n, offset, stored)[start:start + size]

    def slices(self, b, out, size):
        """Write the slices of a list, of an extent of size bytes."""
        for _ in range(b.uvarint()):
            v = b.uvarint()
            pages = v >> 1
            if v & 1:
                piece = bytes(min(pages * PAGE, size))
            else:
                data = self.chunk(b.take(16))
                first = b.uvarint() * PAGE
                piece = data[first:first + min(pages * PAGE, size)]
            out.write(piece)
            size -= len(piece)

    def content(self, b, out):
        size, extent = b.uvarint(), b.uvarint()
        if not extent:
            return self.slices(b, out, size)
        root = self.chunk(b.take(16))
        for i in range(0, len(root), 16):
            self.slices(Bytes(self.chunk(root[i:i + 16])), out, min(extent, size))
            size -= min(extent, size)

    def entry(self, b, target):
        kind, mode = b.take(1)[0], b.uvarint()
        path = os.path.join(target, os.fsdecode(bytes(b.string())))
        b.string(), b.string()
        if kind == 1:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
        elif kind == 2:
            os.symlink(bytes(b.string()), os.fsencode(path))
        else:
            b.take(4)
            with open(path, "wb") as out:
                self.content(b, out)
            os.chmod(path, mode)

    def tree(self, node, target):
        b = Bytes(self.chunk(node))
        if b.take(1)[0] == 1:
            while b.left():
                b.string()
                self.tree(b.take(16), target)
        while b.left():
            self.entry(b, target)

    def restore(self, target):
        m = self.manifest
        os.makedirs(target)
        os.chmod(target, m["mode"])
        self.tree(bytes.fromhex(m["files_root"]), target)
        self.entry(Bytes(base64.b64decode(m["control_entry"])), target)
        for name in "backup_label", "tablespace_map":
            if m.get(name):
                with open(os.path.join(target, name), "wb") as f:
                    f.write(base64.b64decode(m[name]))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    Archive(sys.argv[1], sys.argv[2]).restore(sys.argv[3])
    print("restored; tablespaces, if there are any, are links to where they were")
