#!/usr/bin/env python3
"""A second reader of a store, written from docs/format.md alone: no code, no library of the server.

    strandline_reader.py STORE --key KEYFILE ls                     volumes, their branches and sequences
    strandline_reader.py STORE --key KEYFILE extract VOL@seq:N OUT  the disk at that instant, raw and sparse
    strandline_reader.py STORE --key KEYFILE digest VOL@seq:N       its SHA-256

`VOL` alone is the present. Numbers in the comments are sections of docs/format.md. Reads only; the
store must not be served meanwhile. Damage ends with the reason and exit 7. Needs `cryptography`.
"""
import argparse
import hashlib
import hmac
import os
import struct
import sys
from bisect import bisect_right

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

BLOCK, CELL, FORMAT = 4096, 4128, 1
ONES, ZEROS = b'\xff' * 12, bytes(12)


class Damaged(Exception):
    """Bytes are not as docs/format.md says, or do not open."""


def u16(data, at):
    return int.from_bytes(data[at:at + 2], 'little')


def u32(data, at):
    return int.from_bytes(data[at:at + 4], 'little')


def u48(data, at):
    return int.from_bytes(data[at:at + 6], 'little')


def u64(data, at):
    return int.from_bytes(data[at:at + 8], 'little')


# 1 Keys

def derive(key, label, salt):
    info = b'strandline/1 ' + label.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def gmac(key, nonce, text):
    return AESGCM(key).encrypt(nonce, b'', text)


def demand_tag(what, key, nonce, text, tag):
    if not hmac.compare_digest(gmac(key, nonce, text), tag):
        raise Damaged('%s: its tag does not verify' % what)


def unseal(key, nonce, sealed, associated):
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None


def read_file(path):
    with open(path, 'rb') as file:
        return file.read()


# 3 Super blocks

class Super:
    """What the newer of the two whole super blocks says, and the master key."""

    def __init__(self, store, key_path):
        found = []
        for name in ('super.a', 'super.b'):
            path = os.path.join(store, name)
            block = read_file(path)[:BLOCK] if os.path.exists(path) else b''
            whole = len(block) == BLOCK and block[:8] == b'SLSUPER1' and u32(block, 8) == FORMAT
            if whole and hmac.compare_digest(gmac(bytes(32), ONES, block[:4080]), block[4080:]):
                found.append(block)
        if not found:
            raise Damaged('neither super block is whole')
        if len({block[16:32] for block in found}) > 1:
            raise Damaged('the super blocks are of two stores')
        block = max(found, key=lambda block: u64(block, 32))
        self.store_id, self.segment_bytes = block[16:32], u32(block, 48)
        word, store_hex, secret_hex = read_file(key_path).decode().split()
        if word != 'strandline-key-1' or bytes.fromhex(store_hex) != self.store_id:
            raise Damaged('%s is no key file of this store' % key_path)
        self.master = None
        for at in range(96, 96 + 160 * u32(block, 12), 160):
            slot = block[at:at + 160]
            key = derive(bytes.fromhex(secret_hex), 'slot', slot[8:24])
            self.master = self.master or unseal(key, ZEROS, slot[112:160], self.store_id + slot[:112])
        if self.master is None:
            raise Damaged('%s opens no key slot' % key_path)
        demand_tag('super block', derive(self.master, 'super', block[64:96]), ONES, block[:4064], block[4064:4080])


# 4 Manifest

def manifest_records(store, about):
    """(kind, body) of every record, in order."""
    directory = os.path.join(store, 'manifest')
    newest = max(int(name.split('.')[0]) for name in os.listdir(directory) if name.endswith(('.a', '.b')))
    copies = [read_file(os.path.join(directory, '%d.%s' % (newest, letter))) for letter in 'ab'
              if os.path.exists(os.path.join(directory, '%d.%s' % (newest, letter)))]
    for copy in copies:
        if len(copy) >= 96 and copy[:8] == b'SLMANIF1' and u32(copy, 8) == FORMAT and copy[16:32] == about.store_id:
            key = derive(about.master, 'manifest', copy[40:72])
            if u64(copy, 32) == newest and hmac.compare_digest(gmac(key, ONES, copy[:80]), copy[80:96]):
                header = copy[:96]
                break
    else:
        raise Damaged('manifest %d: no copy has a header that verifies' % newest)
    records, at, number, previous = [], 96, 0, header[80:96]
    while True:
        for copy in copies:
            entry = open_entry(key, copy, at)
            if entry and entry[0] == number and entry[1] == previous:
                break
        else:
            break
        _, _, previous, text, length = entry
        number, at, inside = number + 1, at + length, 0
        while inside < len(text):
            body = u32(text, inside + 4)
            records.append((u16(text, inside), text[inside + 8:inside + 8 + body]))
            inside += 8 + body
    later = any(open_entry(key, copy, later) for copy in copies for later in range(at, len(copy) - 56))
    if at < u64(header, 72) or later:
        raise Damaged('manifest %d: what stood at %d is lost' % (newest, at))
    return records


def open_entry(key, copy, at):
    """(number, previous tag, own tag, text, bytes in all), or None."""
    length = u32(copy, at)
    if at + 56 > len(copy) or length < 16 or at + 40 + length > len(copy):
        return None
    text = unseal(key, copy[at + 4:at + 16], copy[at + 40:at + 40 + length], copy[at:at + 40])
    if text is None:
        return None
    end = at + 40 + length
    return u64(copy, at + 16), copy[at + 24:at + 40], copy[end - 16:end], text, 40 + length


# 10.2 Catalogue

class Catalogue:
    """Volumes, branches, sizes and marks after all records."""

    def __init__(self, records):
        self.volumes, self.branches, self.sizes, self.served, self.marks = {}, {}, {}, {}, {}
        for kind, body in records:
            if 0x100 <= kind <= 0x1ff:
                self.take(kind, body)

    def take(self, kind, body):
        if body[0] != 1:
            raise Damaged('catalogue record 0x%x has layout %d' % (kind, body[0]))
        if kind == 0x100:
            self.volumes[u32(body, 1)] = {'key': body[23:55], 'presence': body[58], 'name': text(body, 75)}
        elif kind == 0x101:
            self.volumes.pop(u32(body, 1), None)
        elif kind == 0x102:
            self.branches[u32(body, 1)] = {'volume': u32(body, 5), 'parent': u32(body, 9), 'fork': u64(body, 13),
                                           'ended': body[45] & 4, 'end': u64(body, 46), 'name': text(body, 87)}
        elif kind == 0x103:
            self.branches.pop(u32(body, 1), None)
        elif kind == 0x104:
            self.sizes.setdefault(u32(body, 1), {})[u64(body, 5)] = u64(body, 13)
        elif kind == 0x105:
            self.served.setdefault(u32(body, 1), {})[u64(body, 9)] = u32(body, 5)
        elif kind == 0x106:
            self.marks[u64(body, 1)] = {'volume': u32(body, 9), 'branch': u32(body, 13), 'seq': u64(body, 17),
                                        'name': text(body, 58)}
        elif kind == 0x107:
            self.marks.pop(u64(body, 1), None)
        elif kind == 0x1ff:
            at = 1
            while at < len(body):
                length = u32(body, at + 2)
                self.take(u16(body, at), body[at + 6:at + 6 + length])
                at += 6 + length

    def size(self, branch, seq):
        known = [(first, size) for first, size in self.sizes.get(branch, {}).items() if first <= seq]
        if known:
            return max(known)[1]
        about = self.branches[branch]
        if not about['parent']:
            raise Damaged('branch %d has no size at %d' % (branch, seq))
        return self.size(about['parent'], min(seq, about['fork']))

    def chain(self, branch, seq):
        """[(branch, greatest sequence that counts)], the branch itself first (11.2)."""
        bounds = []
        while branch:
            bounds.append((branch, seq))
            seq = min(seq, self.branches[branch]['fork'])
            branch = self.branches[branch]['parent']
        return bounds

    def resolve(self, reference):
        """(branch, sequence) of VOL, VOL~BRANCH, VOL@seq:N, VOL~BRANCH@seq:N or VOL@mark:NAME."""
        left, _, instant = reference.partition('@')
        name, _, branch_name = left.partition('~')
        volume = next((number for number, about in self.volumes.items()
                       if about['name'] == name and about['presence'] == 0), None)
        if volume is None:
            raise SystemExit('no volume `%s`' % name)
        served = sorted(self.served[volume].items())
        branch, seq = served[-1][1], (1 << 48) - 1
        if instant.startswith('mark:'):
            mark = max((number, about) for number, about in self.marks.items()
                       if about['volume'] == volume and about['name'] == instant[5:])[1]
            return mark['branch'], mark['seq']
        if instant.startswith('seq:'):
            seq = int(instant[4:])
            branch = next((number for after, number in reversed(served) if after < seq), served[0][1])
        elif instant:
            raise SystemExit('this reader knows @seq:N and @mark:NAME, not `@%s`' % instant)
        if branch_name:
            branch = next(number for number, about in self.branches.items()
                          if about['volume'] == volume and about['name'] == branch_name)
        return branch, seq


def text(body, at):
    return body[at + 1:at + 1 + body[at]].decode()


# 9 Runs

class Run:
    """Entries {(branch, LBA, sequence): place} and ranges of one run file."""

    def __init__(self, path, about):
        data = read_file(path)
        if data[:8] != b'SLRUNS01' or u32(data, 8) != FORMAT or len(data) % BLOCK or len(data) < 2 * BLOCK:
            raise Damaged('%s is no run' % path)
        self.key, self.data, self.number, self.path = derive(about.master, 'run', data[24:56]), data, data[16:24], path
        demand_tag(path, self.key, ONES, data[:56], data[56:72])
        footer = self.page(len(data) // BLOCK - 1, 33)[1]
        if footer[:8] != b'SLRUNEND':
            raise Damaged('%s has no footer' % path)
        self.first, self.last = u64(footer, 16), u64(footer, 24)
        self.entries, self.ranges = {}, []
        for row, kind, take in ((0, 1, self.take_entries), (1, 2, self.take_ranges)):
            at = 32 + 16 * row
            for page in range(u32(footer, at), u32(footer, at) + u32(footer, at + 4)):
                take(*self.page(page, kind))

    def page(self, number, kind):
        """(items, payload) of a sealed page."""
        sealed = self.data[number * BLOCK:(number + 1) * BLOCK]
        opened = unseal(self.key, struct.pack('<QI', number, 0), sealed, self.number)
        if opened is None or opened[0] != kind:
            raise Damaged('%s: page %d does not open as kind %d' % (self.path, number, kind))
        return u16(opened, 2), opened[4:]

    def take_entries(self, items, payload):
        branch = lba = seq = place = at = 0
        for _ in range(items):
            flags, at = payload[at], at + 1
            if flags & 1:
                (branch, at), lba = unsigned(payload, at), 0
            step = 1
            if flags & 2:
                step, at = unsigned(payload, at)
            lba += step
            if flags & 4:
                step, at = signed(payload, at)
                seq += step
            step = 0
            if flags & 8:
                step, at = signed(payload, at)
            place = (place + 129 + step) % (1 << 64)
            self.entries[branch, lba, seq] = place

    def take_ranges(self, items, payload):
        branch = start = seq = at = 0
        blocks = 1
        for _ in range(items):
            step, at = unsigned(payload, at)
            branch, (offset, at) = branch + step, unsigned(payload, at)
            start = offset if step else start + offset
            blocks, at = unsigned(payload, at)
            change, at = signed(payload, at)
            seq, at = seq + change, at + 1
            self.ranges.append((branch, start, blocks, seq))


def unsigned(data, at):
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def signed(data, at):
    value, at = unsigned(data, at)
    return (-(value + 1) // 2 if value & 1 else value // 2), at
