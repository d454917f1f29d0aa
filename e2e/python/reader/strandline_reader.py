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


def number_of(size):
    return lambda data, at: int.from_bytes(data[at:at + size], 'little')


u16, u32, u48, u64 = (number_of(size) for size in (2, 4, 6, 8))


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
        self.volumes, self.branches, self.sizes, self.served, self.marks, self.bases = {}, {}, {}, {}, {}, {}
        for kind, body in records:
            if 0x100 <= kind <= 0x1ff:
                self.take(kind, body)

    def take(self, kind, body):
        if body[0] != 1:
            raise Damaged('catalogue record 0x%x has layout %d' % (kind, body[0]))
        if kind == 0x100:
            self.volumes[u32(body, 1)] = {'key': body[23:55], 'presence': body[58], 'name': text(body, 75)}
        elif kind == 0x102:
            self.branches[u32(body, 1)] = {'volume': u32(body, 5), 'parent': u32(body, 9), 'fork': u64(body, 13),
                                           'ended': body[45] & 4, 'end': u64(body, 46), 'name': text(body, 87)}
        elif kind in (0x101, 0x103):
            (self.volumes if kind == 0x101 else self.branches).pop(u32(body, 1), None)
        elif kind == 0x104:
            self.sizes.setdefault(u32(body, 1), {})[u64(body, 5)] = u64(body, 13)
        elif kind == 0x105:
            self.served.setdefault(u32(body, 1), {})[u64(body, 9)] = u32(body, 5)
        elif kind == 0x106:
            self.marks[u64(body, 1)] = {'volume': u32(body, 9), 'branch': u32(body, 13), 'seq': u64(body, 17),
                                        'name': text(body, 58)}
        elif kind == 0x107:
            self.marks.pop(u64(body, 1), None)
        elif kind == 0x110:  # its cells have the key of the volume that stands on it
            self.bases[u32(body, 5)] = u32(body, 1), body[33] & 2
            self.branches[u32(body, 1)] = dict(self.branches[u32(body, 5)], parent=0)
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


# 10.1 Records of the log, 6 Segments, 5 Cells
class Log:
    """Every version of every block that counts: runs, then the batches that follow the last indexed segment."""

    def __init__(self, store, about, records, catalogue):
        self.store, self.about, self.catalogue = store, about, catalogue
        self.epochs, self.runs, self.segments, self.packs = [], {}, {}, set()
        self.tail, self.last, self.keys = None, 0, {}
        for kind, body in records:
            self.take(kind, body)
        self.versions, self.zeros = {}, []
        for run, _last in self.runs.values():
            opened = Run(os.path.join(store, 'run', '%d.run' % run), about)
            self.versions.update(opened.entries)
            self.zeros += opened.ranges
        self.scan_tail()

    def take(self, kind, body):
        if kind == 1:
            self.epochs.append((u64(body, 4), u32(body, 0), body[12:44]))
            self.tail = None
        elif kind == 2:
            run, first, last = struct.unpack_from('<QQQ', body)
            replaced = struct.unpack_from('<%dQ' % ((len(body) - 24) // 8), body, 24)
            self.runs = {start: known for start, known in self.runs.items() if known[0] not in replaced}
            if last >= first:
                self.runs[first] = run, last
            self.last = max(self.last, last)
        elif kind == 3:
            self.segments[u64(body, 0)] = u64(body, 24)
        elif kind == 4:
            self.packs.add(u64(body, 0))
        elif kind == 6:
            self.tail = body[8:24]
        elif kind == 7:
            self.segments.pop(u64(body, 0), None)
            self.packs.discard(u64(body, 0))

    def scan_tail(self):
        """The log beyond the manifest: segments in the order of their chain, up to the first batch that does not count."""
        headers, directory = [], os.path.join(self.store, 'log')
        for name in sorted(os.listdir(directory)):
            if not name.endswith('.seg'):
                continue
            data = read_file(os.path.join(directory, name))
            if data[:8] == b'SLSEGMT1' and data[24:40] == self.about.store_id and u32(data, 8) == FORMAT:
                key = derive(self.about.master, 'segment', data[40:72])
                if hmac.compare_digest(gmac(key, ONES, data[:104]), data[104:120]):
                    headers.append((data, key, int(name[:-4])))
        starts = {number: random[:16] for _, number, random in self.epochs}
        chain = self.tail or (starts[self.epochs[-1][1]] if self.epochs else None)
        while True:
            due = [header for header in headers if u64(header[0], 72) == self.last + 1
                   and header[0][80:96] in (chain, starts.get(u32(header[0], 12)))
                   and u64(header[0], 16) not in self.segments]
            if not due:
                return
            data, key, slot = max(due, key=lambda header: (u32(header[0], 12), u64(header[0], 16)))
            headers.remove((data, key, slot))
            self.segments[u64(data, 16)] = slot
            chain = self.scan_segment(data, key)

    def scan_segment(self, data, key):
        """Takes the batches that count; the tag that the next segment follows."""
        batches, at, previous, following = [], BLOCK, data[104:120], self.last + 1
        while at + 96 <= len(data) and data[at:at + 4] == b'SLB1':
            length, requests, cells, records = u32(data, at + 4), u32(data, at + 32), u32(data, at + 36), u32(data, at + 40)
            body = 96 + cells * CELL + records * 64
            if length < body or at + length > len(data) or u64(data, at + 8) != following or data[at + 64:at + 80] != previous:
                break
            first_record = at + 96 + cells * CELL
            trailers = b''.join(data[cell + BLOCK:cell + CELL] for cell in range(at + 96, first_record, CELL))
            listed = data[first_record:first_record + records * 64]
            tag = gmac(key, struct.pack('<QI', at, 0), data[at:at + 80] + trailers + listed)
            if not hmac.compare_digest(tag, data[at + 80:at + 96]) or any(data[at + body:at + length]):
                break
            batches.append((at, following + requests - 1, cells, listed, u64(data, at + 24), tag))
            at, previous, following = at + length, tag, following + requests
        durable, tag = max([batch[4] for batch in batches], default=0), data[104:120]
        for at, last, cells, listed, _, own in batches:
            found = [(data[place:place + CELL], u64(data, 16), place) for place in range(at + 96, at + 96 + cells * CELL, CELL)]
            zeros = []
            for record in range(0, len(listed), 64):
                kind, branch, seq, lba, blocks, file, offset = struct.unpack_from('<B3xIQQQQQ', listed, record)
                if kind == 1:
                    zeros.append((branch, lba, blocks, seq))
                elif kind == 2:
                    with open(self.path(file, bulk=True), 'rb') as bulk:
                        bulk_key, _ = derive(self.about.master, 'bulk', bulk.read(BLOCK)[40:72]), bulk.seek(offset)
                        extent = bulk.read(blocks * CELL)
                    pieces = [extent[n * CELL:(n + 1) * CELL] for n in range(blocks)]
                    tail = b''.join(piece[BLOCK:] for piece in pieces)
                    whole = gmac(bulk_key, struct.pack('<QI', offset, 0), tail)
                    if last > durable and not hmac.compare_digest(whole, listed[record + 48:record + 64]):
                        return tag
                    found += [(piece, file, offset + n * CELL) for n, piece in enumerate(pieces)]
            if last > durable and any(self.open_cell(cell) is None for cell, _, _ in found):
                return tag
            for cell, file, offset in found:
                name = u32(cell, 4102), u48(cell, 4096), u48(cell, 4106)
                self.versions[name] = file << 28 | offset // 32
            self.zeros += zeros
            self.last, tag = last, own
        return tag

    def open_cell(self, cell):
        if len(cell) < CELL:
            return None
        seq, branch = u48(cell, 4106), u32(cell, 4102)
        firsts = [first for first, _, _ in self.epochs]
        random = self.epochs[bisect_right(firsts, seq) - 1][2]
        if branch not in self.catalogue.branches:
            return None
        volume = self.catalogue.volumes[self.catalogue.branches[branch]['volume']]['key']
        if (volume, random) not in self.keys:
            self.keys[volume, random] = derive(volume, 'cells', random)
        return unseal(self.keys[volume, random], cell[4096:4102] + cell[4106:4112], cell[:BLOCK] + cell[4112:], cell[4096:4112])

    def path(self, file, bulk=False):
        if not bulk and file in self.segments:
            return os.path.join(self.store, 'log', '%d.seg' % self.segments[file])
        if not bulk and file in self.packs:
            return os.path.join(self.store, 'pack', '%d.pack' % file)
        return os.path.join(self.store, 'bulk', '%d.bulk' % file)

    def block(self, branch, lba, seq, place):
        with open(self.path(place >> 28), 'rb') as file:
            file.seek((place & ((1 << 28) - 1)) * 32)
            cell = file.read(CELL)
        plain = self.open_cell(cell)
        if plain is None or (u32(cell, 4102), u48(cell, 4096), u48(cell, 4106)) != (branch, lba, seq):
            raise Damaged('block %d of branch %d at sequence %d does not open' % (lba, branch, seq))
        return plain


# 11 Reading a volume at an instant
def blocks_at(catalogue, log, reference):
    """(size, {LBA: (branch, sequence, place)}) of the blocks that are not zero."""
    branch, seq = catalogue.resolve(reference)
    bounds = dict(catalogue.chain(branch, seq))
    size, newest = catalogue.size(branch, seq), {}
    for (owner, lba, written), place in log.versions.items():
        if written <= bounds.get(owner, -1) and written > newest.get(lba, (0, -1))[1]:
            newest[lba] = owner, written, place
    for owner, start, blocks, written in log.zeros:
        if written <= bounds.get(owner, -1):
            for lba in range(start, min(start + blocks, -(-size // BLOCK))):
                if written > newest.get(lba, (0, -1))[1]:
                    newest[lba] = owner, written, None
    base, detached = catalogue.bases.get(catalogue.chain(branch, seq)[-1][0], (0, True))
    if not detached:
        raise SystemExit('`%s` stands on a foreign image, which this reader does not open' % reference)
    for (owner, lba, written), place in log.versions.items():  # below all branches, whatever its sequence
        if owner == base and newest.get(lba, (base, -1))[0] == base and written > newest.get(lba, (0, -1))[1]:
            newest[lba] = owner, written, place
    return size, {lba: found for lba, found in newest.items() if found[2] is not None and lba * BLOCK < size}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('store')
    parser.add_argument('--key', required=True)
    parser.add_argument('verb', choices=('ls', 'extract', 'digest'))
    parser.add_argument('words', nargs='*')
    args = parser.parse_args()
    try:
        about = Super(args.store, args.key)
        records = manifest_records(args.store, about)
        catalogue = Catalogue(records)
        log = Log(args.store, about, records, catalogue)
        if args.verb == 'ls':
            for number, volume in sorted(catalogue.volumes.items()):
                branches = [branch for _, branch in sorted(catalogue.served[number].items())]
                print(volume['name'], catalogue.size(branches[-1], log.last), 'bytes, branches', branches, 'up to', log.last)
            return 0
        size, blocks = blocks_at(catalogue, log, args.words[0])
        digest = hashlib.sha256()
        with open(args.words[1] if args.verb == 'extract' else os.devnull, 'wb') as out:
            for lba in range(-(-size // BLOCK)):
                length = min(BLOCK, size - lba * BLOCK)
                plain = log.block(blocks[lba][0], lba, *blocks[lba][1:])[:length] if lba in blocks else bytes(length)
                digest.update(plain)
                if lba in blocks and args.verb == 'extract':
                    out.seek(lba * BLOCK)
                    out.write(plain)
            out.truncate(size) if args.verb == 'extract' else None
        print(digest.hexdigest())
    except Damaged as damage:
        print('damaged: %s' % damage, file=sys.stderr)
        return 7
    return 0


if __name__ == '__main__':
    sys.exit(main())
