#!/usr/bin/env python3
"""Reproduces every verdict in these files from docs/protocol.md alone; shares nothing with the Rust code.

    pip install cryptography
    tests/vectors/verify.py

Exit 0 when all verdicts and results are the same, 1 when not. Not checked: the word list of BIP-39.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).resolve().parent


class Refused(Exception):
    """The reason is the argument."""


def H(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# ---- Messages ------------------------------------------------------------------------------------------------------


class Unknown(Exception):
    pass


def u32():
    return ("n", 2**32 - 1)


def u64():
    return ("n", 2**64 - 1)


def size(low, high=None):
    return ("b", low, low if high is None else high)


def text(high):
    return ("t", high)


def message(high, shape):
    return ("m", high, shape)


def shape(wrapper, *fields):
    """A field is (number, name, kind) or (number, name, kind, at most)."""
    return {"wrapper": wrapper, "fields": {f[0]: (f[1], f[2], f[3] if len(f) > 3 else None) for f in fields}}


BUNDLE = shape(
    True, (1, "inception", size(1, 2048)), (2, "rotations", size(1, 320), 8), (3, "owner", size(1, 400)),
    (4, "revocation", size(1, 200)), (5, "entries", size(1, 1280), 8),
)
SIGNED = shape(True, (1, "payload", size(1, 400)), (2, "signature", size(64)))
SIGNED_ENTRY = shape(
    True, (1, "envelope", size(1, 880)), (2, "certificate", size(1, 320)), (3, "signature", size(64))
)
ROTATION = shape(
    False, (1, "idhash", size(22)), (2, "n", u32()), (3, "new_root_key", size(32)),
    (4, "new_recovery_hash", size(32)), (5, "recovery_key", size(32)),
)
OWNER = shape(
    False, (1, "idhash", size(22)), (2, "rotation", u32()), (3, "min_epoch", u32()),
    (4, "revoked_serials", u64(), 16), (5, "sequence", u64()), (6, "valid_until", u64()),
)
REVOCATION = shape(False, (1, "idhash", size(22)), (2, "issued_at", u64()), (3, "recovery_key", size(32)))
CAVEATS = shape(True, (1, "max_ttl", u32()), (2, "max_priority", u32()), (3, "forward_only", ("n", 1)))
CERTIFICATE = shape(
    False, (1, "idhash", size(22)), (2, "rotation", u32()), (3, "epoch", u32()), (4, "serial", u64()),
    (5, "device_key", size(32)), (6, "rights", u32()), (7, "not_before", u64()), (8, "not_after", u64()),
    (9, "caveats", message(32, CAVEATS)),
)
ENVELOPE = shape(
    False, (1, "idhash", size(22)), (2, "rotation", u32()), (3, "epoch", u32()), (4, "sequence", u64()),
    (5, "issued_at", u64()), (6, "expires_at", u64()), (7, "state", u32()), (8, "body", size(0, 640)), (9, "ver", u32()),
)
BODY = shape(
    False, (1, "priority", u32()), (2, "addresses", size(1, 128), 8), (3, "capabilities", u64()),
    (4, "forward_to", text(128)), (5, "kem_key", size(0, 64)), (6, "knock_policy", size(0, 64)),
    (7, "proofs", size(0, 128), 2),
)
GENESIS = shape(
    False, (1, "name", text(64)), (2, "mode", u32()), (3, "authority_keys", size(32), 8), (4, "threshold", u32()),
    (5, "address_scope", u32()), (6, "nonce", size(16)),
)
BOOTSTRAP_NODE = shape(False, (1, "node_key", size(32)), (2, "addresses", size(1, 128), 8))
CHARTER = shape(
    False, (1, "sequence", u64()), (2, "bootstrap", message(1200, BOOTSTRAP_NODE), 32), (3, "max_bundle_bytes", u32()),
    (4, "max_ttl", u32()), (5, "directories", size(32), 8), (6, "min_version", u32()), (7, "valid_until", u64()),
    (8, "overlay_id", size(32)),
)
CHARTER_SIGNATURE = shape(True, (1, "authority", u32()), (2, "signature", size(64)))
SIGNED_CHARTER = shape(
    True, (1, "payload", size(1, 16384)), (2, "signatures", message(80, CHARTER_SIGNATURE), 8)
)
CARD = shape(
    False, (1, "inception", size(1, 600)), (2, "rotations", size(1, 320), 8), (3, "genesis_hash", size(32)),
    (4, "overlay", text(64)), (5, "nickname", text(48)), (6, "node_hints", size(32), 2),
    (7, "door_secret", size(0, 64)), (8, "token", size(0, 64)),
)
SIGNED_CARD = shape(
    True, (1, "payload", size(1, 600)), (2, "certificate", size(1, 320)), (3, "signature", size(64))
)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def varint(self):
        value = 0
        for i in range(10):
            if self.at >= len(self.data):
                raise Refused("Malformed")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if (byte == 0 and i > 0) or value >= 2**64:
                    raise Refused("Malformed")
                return value
        raise Refused("Malformed")

    def take(self, count):
        if count > len(self.data) - self.at:
            raise Refused("Malformed")
        self.at += count
        return self.data[self.at - count : self.at]


def default(kind, at_most):
    if at_most is not None:
        return []
    return {"n": 0, "b": b"", "t": "", "m": None}[kind[0]]


def read(data, of):
    """Scans strictly and decodes."""
    found = {name: default(kind, at_most) for name, kind, at_most in of["fields"].values()}
    reader, last, times = Reader(data), 0, 0
    while reader.at < len(data):
        tag = reader.varint()
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number < 2**29 or number < last:
            raise Refused("Malformed")
        times = times + 1 if number == last else 1
        last = number
        if number not in of["fields"]:
            if of["wrapper"]:
                raise Unknown()
            if wire_type == 0:
                reader.varint()
            elif wire_type == 2:
                reader.take(reader.varint())
            elif wire_type in (1, 5):
                reader.take(8 if wire_type == 1 else 4)
            else:
                raise Refused("Malformed")
            continue
        name, kind, at_most = of["fields"][number]
        if times > (at_most or 1) or wire_type != (0 if kind[0] == "n" else 2):
            raise Refused("Malformed")
        if kind[0] == "n":
            value = reader.varint()
            if value > kind[1]:
                raise Refused("Malformed")
        else:
            value = reader.take(reader.varint())
            low, high = (kind[1], kind[2]) if kind[0] == "b" else (0, kind[1])
            if not low <= len(value) <= high:
                raise Refused("Malformed")
            if kind[0] == "t":
                try:
                    value = value.decode("utf-8", "strict")
                except UnicodeDecodeError:
                    raise Refused("Malformed") from None
            elif kind[0] == "m":
                value = read(value, kind[2])
        if at_most is None:
            found[name] = value
        else:
            found[name].append(value)
    return found


def scan(data, of, unknown="Malformed"):
    try:
        return read(data, of)
    except Unknown:
        raise Refused(unknown) from None


def encode_varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_bytes(number, value):
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


# ---- Signatures ----------------------------------------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D_CURVE = -121665 * pow(121666, P - 2, P) % P


def decode_point(data):
    """(x, y) of a canonical encoding, else None (RFC 8032, 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D_CURVE * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    return (P - x if x & 1 != sign else x, y)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D_CURVE * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P) % P
    return (x, y)


def of_small_order(point):
    for _ in range(3):
        point = add(point, point)
    return point == (0, 1)


def usable(key):
    point = decode_point(key)
    if point is None or of_small_order(point):
        raise Refused("WeakKey")


def verify(key, domain, overlay_id, scope, payload, signature):
    usable(key)
    if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= L:
        raise Refused("BadSignature")
    r = decode_point(signature[:32])
    if r is None or of_small_order(r):
        raise Refused("BadSignature")
    signed = b"peerline-sig-1\0" + bytes([len(domain)]) + domain + overlay_id + scope + payload
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        raise Refused("BadSignature") from None


NONE = bytes(32)

# ---- Identity ------------------------------------------------------------------------------------------------------


def hkdf(seed, info):
    key = hmac.new(NONE, seed, hashlib.sha256).digest()
    return hmac.new(key, info + b"\1", hashlib.sha256).digest()


def public(secret):
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def root_key(seed, n):
    return public(hkdf(seed, b"peerline-root-1" + n.to_bytes(4, "big")))


def recovery_key(seed, n):
    return public(hkdf(seed, b"peerline-recovery-1" + n.to_bytes(4, "big")))


def commitment(key):
    return H(b"peerline-recovery-pk-1", key)


def idhash_of(inception):
    return H(b"peerline-uri-1", inception)[:22]


def base32(data):
    return base64.b32encode(data).decode().rstrip("=").lower()


def from_base32(text):
    """None unless it is exactly what base32 writes."""
    if any(c not in "abcdefghijklmnopqrstuvwxyz234567" for c in text) or len(text) % 8 in (1, 3, 6):
        return None
    data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    return data if base32(data) == text else None


def checksum(ver_alg, idhash):
    return H(b"peerline-uri-chk-1", bytes([ver_alg]), idhash)[:2]


def user_part(idhash):
    return base32(bytes([0x10]) + idhash + checksum(0x10, idhash))


def read_number(text):
    data = from_base32(text.replace(" ", "").replace("-", "").lower())
    if data is None or len(data) != 25:
        return "NotAnAddress", None
    if checksum(data[0], data[1:23]) != data[23:]:
        return "Mistyped", None
    return ("Ok", data[1:23]) if data[0] == 0x10 else ("Newer", None)


# ---- Overlay, where ------------------------------------------------------------------------------------------------


def is_overlay_name(name):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return (
        1 <= len(name) <= 64 and all(c in letters + ".-" for c in name) and name[0] in letters and name[-1] in letters
    )


def read_genesis(data):
    if len(data) > 512:
        raise Refused("TooLarge")
    genesis = scan(data, GENESIS)
    keys = genesis["authority_keys"]
    fine = (
        is_overlay_name(genesis["name"])
        and genesis["mode"] in (1, 2)
        and genesis["address_scope"] in (1, 2)
        and len(genesis["nonce"]) == 16
        and all(a < b for a, b in zip(keys, keys[1:]))
        and (1 <= genesis["threshold"] <= len(keys) if keys else genesis["threshold"] == 0)
    )
    if not fine:
        raise Refused("Malformed")
    for key in keys:
        usable(key)
    return genesis


def overlay_id_of(genesis):
    return H(b"peerline-overlay-1", genesis)


def door_key(overlay_id, idhash):
    return H(b"peerline-door-1", overlay_id, idhash)


def replica_keys(overlay_id, idhash):
    return [H(door_key(overlay_id, idhash), bytes([j])) for j in range(4)]


# ---- Addresses -----------------------------------------------------------------------------------------------------

NOT_GLOBAL = [
    ipaddress.ip_network(n)
    for n in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 "
        "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
    ).split()
]
UNICAST6 = ipaddress.ip_network("2000::/3")


def is_global(ip):
    if ip.version == 6:
        if ip.ipv4_mapped:
            return is_global(ip.ipv4_mapped)
        if ip not in UNICAST6:
            return False
    return not any(ip in network for network in NOT_GLOBAL if network.version == ip.version)


def acceptable(data, scope):
    reader = Reader(data)

    def code():
        before = reader.at
        value = reader.varint()
        if reader.at - before > 4:
            raise Refused("Malformed")
        return value

    def port():
        if reader.take(2) == b"\0\0":
            raise Refused("Malformed")

    try:
        host = code()
        if host in (4, 41):
            fit = is_global(ipaddress.ip_address(reader.take(4 if host == 4 else 16)))
        elif host in (53, 54, 55):
            name = reader.take(code()).decode("latin-1").lower()
            if not 1 <= len(name) <= 100 or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789.-_" for c in name):
                return False
            fit = "." in name and not name.endswith((".local", ".localhost", ".internal", ".home.arpa"))
        else:
            return False
        transport = code()
        if transport not in (6, 273):
            return False
        port()
        if transport == 273 and code() != 461:
            return False
        while reader.at < len(data):
            suffix = code()
            if suffix in (477, 478):
                continue
            if suffix != 421:
                return False
            length = code()
            if length > 42:
                return False
            reader.take(length)
            if code() != 290 or reader.at != len(data):
                return False
        return fit or scope == "any"
    except Refused:
        return False


# ---- Records -------------------------------------------------------------------------------------------------------


class Chain:
    def __init__(self, inception, rotations):
        self.inception, self.rotations = inception, rotations
        self.root, self.commitment = inception[1:33], inception[33:]

    def same(self, other):
        return (self.inception, self.rotations) == (other.inception, other.rotations)

    def better_than(self, other):
        if len(self.rotations) != len(other.rotations):
            return len(self.rotations) > len(other.rotations)
        return H(*self.rotations) < H(*other.rotations)


class Held:
    """A valid bundle."""

    def __init__(self, chain, owner=None, revocation=None, entries=None):
        self.chain, self.owner, self.revocation = chain, owner, revocation
        self.entries = entries or {}

    def epoch(self):
        epochs = [e["epoch"] for e in self.entries.values()] + ([self.owner["min_epoch"]] if self.owner else [])
        return max(epochs, default=0)

    def empty(self):
        return not (self.entries or self.owner or self.revocation)

    def settle(self):
        if self.revocation:
            self.owner, self.entries = None, {}
        epoch = self.epoch()
        fit = {d: e for d, e in self.entries.items() if e["epoch"] >= epoch and not rules_out(self.owner, e)}
        self.entries = dict(sorted(fit.items())[:8])

    def encode(self):
        out = encode_bytes(1, self.chain.inception)
        out += b"".join(encode_bytes(2, r) for r in self.chain.rotations)
        out += encode_bytes(3, self.owner["bytes"]) if self.owner else b""
        out += encode_bytes(4, self.revocation["bytes"]) if self.revocation else b""
        return out + b"".join(encode_bytes(5, e["bytes"]) for _, e in sorted(self.entries.items()))


def rules_out(owner, entry):
    return bool(owner) and (entry["epoch"] < owner["min_epoch"] or entry["serial"] in owner["revoked_serials"])


def flip(data):
    """Smaller bytes count as more; all have one length or differ before it ends."""
    return tuple(-b for b in data) + (1,)


def entry_rank(entry):
    return (entry["epoch"], entry["sequence"], flip(entry["envelope_hash"]), entry["not_after"], flip(entry["bytes"]))


def better_owner(a, b):
    owners = [o for o in (a, b) if o]
    return max(owners, key=lambda o: (o["min_epoch"], o["sequence"], flip(o["bytes"])), default=None)


def merge(a, b):
    if a.revocation or b.revocation:
        if not (a.revocation and b.revocation):
            return a if a.revocation else b
        if not a.chain.same(b.chain):
            return a if a.chain.better_than(b.chain) else b
        return min(a, b, key=lambda h: (h.revocation["issued_at"], h.revocation["bytes"]))
    if not a.chain.same(b.chain):
        return a if a.chain.better_than(b.chain) else b
    joined = Held(a.chain, better_owner(a.owner, b.owner))
    for side in (a, b):
        for device, entry in side.entries.items():
            if rules_out(joined.owner, entry):
                continue
            ours = joined.entries.get(device)
            if ours is None or entry_rank(entry) > entry_rank(ours):
                joined.entries[device] = entry
    joined.settle()
    return joined


def read_inception(inception):
    if inception and inception[0] != 0x10:
        raise Refused("Unsupported")
    if len(inception) != 65:
        raise Refused("Malformed")
    return inception


def read_certificate(data):
    signed = scan(data, SIGNED)
    certificate = scan(signed["payload"], CERTIFICATE, unknown="Unsupported")
    if len(certificate["device_key"]) != 32:
        raise Refused("Malformed")
    return signed, certificate


def scan_entry(data, idhash, scope):
    """Part B, 1 to 7."""
    signed = scan(data, SIGNED_ENTRY)
    certificate_signed, certificate = read_certificate(signed["certificate"])
    envelope = scan(signed["envelope"], ENVELOPE)
    state = envelope["state"]
    if state == 0:
        raise Refused("Malformed")
    opaque = envelope["ver"] != 0 or state > 4
    life = envelope["expires_at"] - envelope["issued_at"]
    if not 60 <= life <= 10_800:
        raise Refused("Malformed")
    if envelope["idhash"] != idhash:
        raise Refused("WrongKey")
    if (
        certificate["idhash"] != idhash
        or not 0 <= certificate["not_after"] - certificate["not_before"] <= 7_779_600
        or (certificate["rotation"], certificate["epoch"]) != (envelope["rotation"], envelope["epoch"])
    ):
        raise Refused("BadCertificate")
    priority = 0
    if not opaque:
        body = scan(envelope["body"], BODY)
        priority = body["priority"]
        if priority > 1000 or (state == 4 and body["addresses"]) or (state == 3 and not body["forward_to"]):
            raise Refused("Malformed")
        if not all(acceptable(a, scope) for a in body["addresses"]):
            raise Refused("AddressPolicy")
    if not certificate["rights"] & (4 if state == 4 and not opaque else 1):
        raise Refused("NotCertified")
    caveats = certificate["caveats"]
    if caveats and (
        (caveats["max_ttl"] and life > caveats["max_ttl"])
        or (caveats["max_priority"] and priority > caveats["max_priority"])
        or (caveats["forward_only"] and (opaque or state not in (3, 4)))
    ):
        raise Refused("NotCertified")
    return {
        "bytes": data,
        "signed": signed,
        "certificate_signed": certificate_signed,
        "certificate": certificate,
        "device": certificate["device_key"],
        "serial": certificate["serial"],
        "rights": certificate["rights"],
        "not_after": certificate["not_after"],
        "opaque": opaque,
        "envelope_hash": H(signed["envelope"]),
        **{k: envelope[k] for k in ("rotation", "epoch", "sequence", "issued_at", "expires_at")},
    }


def why_left_out(entry, rotations, now, held):
    """Part B, 9."""
    now_s = now // 1000
    if entry["expires_at"] <= now_s or entry["not_after"] <= now_s:
        return "Expired"
    if entry["sequence"] > now + 300_000:
        return "TooFarAhead"
    if entry["issued_at"] > now_s + 300 or entry["certificate"]["not_before"] > now_s + 300:
        return "NotYetValid"
    if entry["rotation"] != rotations:
        return "Stale" if entry["rotation"] < rotations else "NotCertified"
    if held and len(held.chain.rotations) == rotations:
        ours = held.entries.get(entry["device"])
        if ours and (entry["epoch"], entry["sequence"]) < (ours["epoch"], ours["sequence"]):
            return "Stale"
    return None


def judge_chain(inception, rotations, idhash):
    chain = Chain(inception, rotations)
    usable(chain.root)
    for n, data in enumerate(rotations, 1):
        signed = scan(data, SIGNED)
        rotation = scan(signed["payload"], ROTATION)
        whole = all(len(rotation[k]) == 32 for k in ("new_root_key", "new_recovery_hash", "recovery_key"))
        if not whole or (rotation["idhash"], rotation["n"]) != (idhash, n):
            raise Refused("Malformed")
        if commitment(rotation["recovery_key"]) != chain.commitment:
            raise Refused("BadSignature")
        usable(rotation["new_root_key"])
        verify(rotation["recovery_key"], b"rotation", NONE, NONE, signed["payload"], signed["signature"])
        chain.root, chain.commitment = rotation["new_root_key"], rotation["new_recovery_hash"]
    return chain


def judge_revocation(data, chain, idhash, now):
    signed = scan(data, SIGNED)
    revocation = scan(signed["payload"], REVOCATION)
    if len(revocation["recovery_key"]) != 32 or revocation["idhash"] != idhash:
        raise Refused("Malformed")
    if commitment(revocation["recovery_key"]) != chain.commitment:
        raise Refused("BadSignature")
    if revocation["issued_at"] > now // 1000 + 300:
        raise Refused("NotYetValid")
    if revocation["issued_at"] + 31_536_000 <= now // 1000:
        return None
    verify(revocation["recovery_key"], b"revocation", NONE, NONE, signed["payload"], signed["signature"])
    return {"bytes": data, "issued_at": revocation["issued_at"]}


def judge_owner(data, chain, idhash, now, overlay_id):
    signed = scan(data, SIGNED)
    owner = scan(signed["payload"], OWNER)
    if owner["idhash"] != idhash or owner["rotation"] > len(chain.rotations):
        raise Refused("Malformed")
    if owner["rotation"] < len(chain.rotations) or owner["valid_until"] <= now // 1000:
        return None
    if owner["sequence"] > now + 300_000 or owner["valid_until"] > now // 1000 + 31_622_400:
        raise Refused("TooFarAhead")
    verify(chain.root, b"owner", overlay_id, NONE, signed["payload"], signed["signature"])
    return {"bytes": data, **owner}


def verify_certificate(signed, root, overlay_id):
    try:
        verify(root, b"device", overlay_id, NONE, signed["payload"], signed["signature"])
    except Refused:
        raise Refused("BadCertificate") from None


def judge_alone(bundle, inception, overlay_id, scope, now, held):
    """Parts B and C."""
    idhash = idhash_of(inception)
    kept, remembered, last = [], None, b""
    for data in bundle["entries"]:
        entry = scan_entry(data, idhash, scope)
        if entry["device"] <= last and last:
            raise Refused("Malformed")
        last = entry["device"]
        reason = why_left_out(entry, len(bundle["rotations"]), now, held)
        if reason is None:
            kept.append(entry)
        else:
            remembered = remembered or reason
    chain = judge_chain(inception, bundle["rotations"], idhash)
    new = Held(chain)
    if bundle["revocation"]:
        new.revocation = judge_revocation(bundle["revocation"], chain, idhash, now)
    if bundle["owner"]:
        new.owner = judge_owner(bundle["owner"], chain, idhash, now, overlay_id)
    for entry in kept:
        usable(entry["device"])
        verify_certificate(entry["certificate_signed"], chain.root, overlay_id)
        signed, door = entry["signed"], door_key(overlay_id, idhash)
        verify(entry["device"], b"loc", overlay_id, door, signed["envelope"], signed["signature"])
        new.entries[entry["device"]] = entry
    new.settle()
    if new.empty():
        raise Refused(remembered or ("Revoked" if kept else "Expired"))
    return new


def judge_beside(new, held, now):
    """Part D."""
    same = new.chain.same(held.chain)
    pinned = held.epoch()
    if same and any(e["epoch"] < pinned for e in new.entries.values()):
        ruled = held.revocation or any(rules_out(held.owner, e) for e in new.entries.values())
        new.entries = {d: e for d, e in new.entries.items() if e["epoch"] >= pinned}
        if new.empty():
            raise Refused("Revoked" if ruled else "Stale")
    now_s = now // 1000
    live = Held(
        held.chain,
        held.owner if held.owner and held.owner["valid_until"] > now_s else None,
        held.revocation if held.revocation and held.revocation["issued_at"] + 31_536_000 > now_s else None,
        {d: e for d, e in held.entries.items() if e["expires_at"] > now_s and e["not_after"] > now_s},
    )
    if same:
        owner, epoch = better_owner(live.owner, new.owner), max(live.epoch(), new.epoch())
        slots = {**live.entries, **new.entries}.values()
        if sum(e["epoch"] >= epoch and not rules_out(owner, e) for e in slots) > 8:
            raise Refused("SlotsFull")
    merged = merge(live, new)
    if merged.encode() != live.encode():
        return merged
    if live.revocation and not new.revocation:
        raise Refused("Revoked")
    if not same:
        raise Refused("Stale")
    if any(rules_out(live.owner, e) for e in new.entries.values()):
        raise Refused("Revoked")
    for kind in ("owner", "revocation"):
        theirs, ours = getattr(new, kind), getattr(live, kind)
        if theirs and (not ours or theirs["bytes"] != ours["bytes"]):
            raise Refused("Stale")
    for device, entry in sorted(new.entries.items()):
        ours = live.entries.get(device)
        if ours and ours["envelope_hash"] == entry["envelope_hash"]:
            continue
        raise Refused("Equivocation" if ours and ours["sequence"] == entry["sequence"] else "Stale")
    return merged


def judge(data, key, overlay_id, scope, now, held=None):
    if len(data) > 12_288:
        raise Refused("TooLarge")
    bundle = scan(data, BUNDLE)
    inception = read_inception(bundle["inception"])
    if key not in replica_keys(overlay_id, idhash_of(inception)):
        raise Refused("WrongKey")
    if held and held.chain.inception != inception:
        held = None
    new = judge_alone(bundle, inception, overlay_id, scope, now, held)
    return judge_beside(new, held, now) if held else new


def judge_hello(sender, data, channel_key, pin, overlay_id, now):
    if len(data) > 12_288:
        raise Refused("TooLarge")
    bundle = scan(data, BUNDLE)
    inception = read_inception(bundle["inception"])
    if idhash_of(inception) != sender:
        raise Refused("WrongKey")

    def names_channel(entry):
        try:
            return read_certificate(scan(entry, SIGNED_ENTRY)["certificate"])[1]["device_key"] == channel_key
        except Refused:
            return False

    bundle["entries"] = [e for e in bundle["entries"] if names_channel(e)]
    if not bundle["entries"] and not bundle["revocation"]:
        raise Refused("NotCertified")
    valid = judge_alone(bundle, inception, overlay_id, "global", now, None)
    if valid.revocation:
        raise Refused("Revoked")
    entry = valid.entries.get(channel_key)
    if entry is None or not entry["rights"] & 2:
        raise Refused("NotCertified")
    if pin and (len(valid.chain.rotations), entry["epoch"]) < tuple(pin):
        raise Refused("Revoked")


# ---- Charter updates and cards -------------------------------------------------------------------------------------


def judge_charter(data, genesis_bytes, overlay_id, scope, now, held_sequence):
    genesis = read_genesis(genesis_bytes)
    if len(data) > 16_384:
        raise Refused("TooLarge")
    signed = scan(data, SIGNED_CHARTER)
    update = scan(signed["payload"], CHARTER)
    if len(update["overlay_id"]) != 32:
        raise Refused("Malformed")
    if not update["overlay_id"] == overlay_id_of(genesis_bytes) == overlay_id:
        raise Refused("WrongOverlay")
    if update["valid_until"] <= now // 1000:
        raise Refused("Expired")
    if update["sequence"] > now + 300_000:
        raise Refused("TooFarAhead")
    if held_sequence is not None and update["sequence"] <= held_sequence:
        raise Refused("Stale")
    for node in update["bootstrap"]:
        if len(node["node_key"]) != 32:
            raise Refused("Malformed")
        usable(node["node_key"])
        if not all(acceptable(a, scope) for a in node["addresses"]):
            raise Refused("AddressPolicy")
    which, keys = [s["authority"] for s in signed["signatures"]], genesis["authority_keys"]
    if any(a >= b for a, b in zip(which, which[1:])) or any(a >= len(keys) for a in which):
        raise Refused("Malformed")
    if not keys or len(which) < genesis["threshold"]:
        raise Refused("NotCertified")
    for s in signed["signatures"]:
        verify(keys[s["authority"]], b"charter", overlay_id, NONE, signed["payload"], s["signature"])


def judge_card(text, overlay_id, now):
    text = text.strip()
    prefix, rest = text[:14], text[14:]
    if prefix.lower() != "peerline:card/":
        raise Refused("Malformed")
    if len(rest) > 960:
        raise Refused("TooLarge")
    data = from_base32(rest.lower())
    if data is None:
        raise Refused("Malformed")
    signed = scan(data, SIGNED_CARD)
    card = scan(signed["payload"], CARD)
    inception = read_inception(card["inception"])
    idhash = idhash_of(inception)
    if len(card["genesis_hash"]) != 32 or not is_overlay_name(card["overlay"]):
        raise Refused("Malformed")
    if card["genesis_hash"] != overlay_id:
        raise Refused("WrongOverlay")
    certificate_signed, certificate = read_certificate(signed["certificate"])
    if certificate["idhash"] != idhash:
        raise Refused("BadCertificate")
    if certificate["rotation"] != len(card["rotations"]) or not certificate["rights"] & 1:
        raise Refused("NotCertified")
    if certificate["not_before"] > now // 1000 + 300:
        raise Refused("NotYetValid")
    chain = judge_chain(inception, card["rotations"], idhash)
    usable(certificate["device_key"])
    verify_certificate(certificate_signed, chain.root, overlay_id)
    verify(certificate["device_key"], b"card", overlay_id, NONE, signed["payload"], signed["signature"])
    return card, idhash


# ---- The files -----------------------------------------------------------------------------------------------------

checked, faults = {}, []


def vectors(file):
    return json.loads((HERE / file).read_text(encoding="utf-8"))


def expect(file, name, found, wanted):
    checked[file] = checked.get(file, 0) + 1
    if found != wanted:
        faults.append(f"{file}: {name}: {wanted} expected, {found} found")


def verdict(call):
    """(verdict, result)"""
    try:
        return "Valid", call()
    except Refused as refused:
        return str(refused), None


def check_identities(file):
    both = vectors(file)
    for v in both["identities"]:
        seed = bytes.fromhex(v["seed"])
        inception = b"\x10" + root_key(seed, 0) + commitment(recovery_key(seed, 0))
        number = user_part(idhash_of(inception))
        found = {
            "root_0": root_key(seed, 0).hex(),
            "root_1": root_key(seed, 1).hex(),
            "recovery_0": recovery_key(seed, 0).hex(),
            "recovery_1": recovery_key(seed, 1).hex(),
            "inception": inception.hex(),
            "idhash": idhash_of(inception).hex(),
            "user_part": number,
            "grouped": " ".join(number[i : i + 5] for i in range(0, 40, 5)),
        }
        expect(file, v["user_part"], found, {k: v[k] for k in found})
    for v in both["typed"]:
        expect(file, repr(v["text"]), read_number(v["text"])[0], v["verdict"])


def check_overlays(file):
    for v in vectors(file):
        genesis = bytes.fromhex(v["genesis"])
        overlay_id = overlay_id_of(genesis)
        expect(file, v["name"], overlay_id.hex(), v["overlay_id"])
        expect(file, v["name"], f"/peerline/{overlay_id.hex()[:8]}/", v["protocol_prefix"])
        expect(file, v["name"], verdict(lambda: read_genesis(genesis))[0] == "Valid", v["valid"])
        for place in v["places"]:
            idhash = read_number(place["user_part"])[1]
            expect(file, v["name"], door_key(overlay_id, idhash).hex(), place["door"])
            expect(file, v["name"], [k.hex() for k in replica_keys(overlay_id, idhash)], place["replicas"])


def check_bundles(file):
    for v in vectors(file):
        overlay_id, key = bytes.fromhex(v["overlay_id"]), bytes.fromhex(v["key"])
        held = None
        if v["held"] is not None:
            held = judge(bytes.fromhex(v["held"]), key, overlay_id, v["scope"], v["held_now_ms"])
        data = bytes.fromhex(v["bytes"])
        found, result = verdict(lambda: judge(data, key, overlay_id, v["scope"], v["now_ms"], held))
        if result and any(e["opaque"] for e in result.entries.values()):
            found = "ValidOpaque"
        expect(file, v["name"], found, v["verdict"])
        expect(file, v["name"] + " (result)", result and result.encode().hex(), v["result"])


def check_hellos(file):
    for v in vectors(file):
        sender, channel = read_number(v["from"])[1], bytes.fromhex(v["channel_key"])
        data, overlay_id = bytes.fromhex(v["bytes"]), bytes.fromhex(v["overlay_id"])
        found, _ = verdict(lambda: judge_hello(sender, data, channel, v["pin"], overlay_id, v["now_ms"]))
        expect(file, v["name"], found, v["verdict"])


def check_charters(file):
    for v in vectors(file):
        data, genesis, overlay_id = (bytes.fromhex(v[k]) for k in ("bytes", "genesis", "overlay_id"))
        found, _ = verdict(
            lambda: judge_charter(data, genesis, overlay_id, v["scope"], v["now_ms"], v["held_sequence"])
        )
        expect(file, v["name"], found, v["verdict"])


def check_cards(file):
    for v in vectors(file):
        found, result = verdict(lambda: judge_card(v["text"], bytes.fromhex(v["overlay_id"]), v["now_ms"]))
        expect(file, v["name"], found, v["verdict"])
        if result:
            card, idhash = result
            expect(file, v["name"], (user_part(idhash), card["nickname"]), (v["user_part"], v["nickname"]))


def main():
    check_identities("identities.json")
    check_overlays("overlays.json")
    for file in ("bundles-good.json", "bundles-bad.json", "bundles-held.json"):
        check_bundles(file)
    check_hellos("hellos.json")
    check_charters("charters.json")
    check_cards("cards.json")
    for file, count in checked.items():
        print(f"{file}: {count} checks")
    for fault in faults:
        print(fault, file=sys.stderr)
    print("all as written down" if not faults else f"{len(faults)} differ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
