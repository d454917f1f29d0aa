#!/usr/bin/env python3
"""A stand-in with the part of strandline(1)'s grammar that instants.py uses, slow and plain, with bugs on demand.

It exists to prove that the harness has teeth: `selftest.py` runs instants.py against it, right and with
each bug of BUGS in the environment variable STANDIN_BUG, and demands that every bug is found. It keeps
one journal of requests, appended before the answer, and replays it to open an instant.
"""
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

from history_model import to_ns, to_text

BUGS = {
    'early': 'an instant by time misses the last write acknowledged before it',
    'late': 'an instant by time shows a write sent after it',
    'half': 'an instant shows the first half of its last request',
    'hole': 'an instant lacks a write in its middle',
    'swap': 'two neighbouring writes are applied in the other order',
    'lost': 'the last acknowledged writes are gone after a kill',
    'shift': 'the log gives each write the time of the one before',
    'trim': 'a trim leaves its unaligned edges as they were',
    'leak': 'a clone sees a write its parent got after the fork',
    'future': 'a left branch is forgotten by a rewind',
}
BUG = os.environ.get('STANDIN_BUG', '')
RECORD = struct.Struct('<QQIBQI')  # sequence, time, branch, kind, offset, length; kind 0 write, 1 trim, 2 zeroes


class Store:
    """The journal and a small JSON file of volumes, branches and marks."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.journal = os.open(os.path.join(path, 'journal'), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.records, self.read_to = [], 0
        self.next_seq = 1

    def names(self):
        with open(os.path.join(self.path, 'names.json')) as file:
            return json.load(file)

    def change(self, how):
        with open(os.path.join(self.path, 'names.lock'), 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            names = self.names()
            answer = how(names)
            with open(os.path.join(self.path, 'names.new'), 'w') as file:
                json.dump(names, file)
            os.replace(os.path.join(self.path, 'names.new'), os.path.join(self.path, 'names.json'))
        return answer

    def refresh(self):
        end = os.fstat(self.journal).st_size
        while self.read_to + RECORD.size <= end:
            seq, when, branch, kind, offset, length = RECORD.unpack(os.pread(self.journal, RECORD.size, self.read_to))
            body = length if kind == 0 else 0
            if self.read_to + RECORD.size + body > end:
                break
            self.records.append((seq, when, branch, kind, offset, length, self.read_to + RECORD.size))
            self.read_to += RECORD.size + body
            self.next_seq = seq + 1
        return self.records

    def append(self, branch, kind, offset, length, data):
        with self.lock:
            seq = self.next_seq
            self.next_seq += 1
            os.write(self.journal, RECORD.pack(seq, time.time_ns(), branch, kind, offset, length) + data)
            self.refresh()
            return seq

    def state(self, names, branch, seq, size, bug=''):
        about = names['branches'][str(branch)]
        if about['parent'] is not None:
            fork = about['fork'] + (1 if BUG == 'leak' else 0)
            image = self.state(names, about['parent'], min(seq, fork), size)
        else:
            image = bytearray(size)
        own = [record for record in self.records if record[2] == branch and record[0] <= seq]
        if bug == 'hole' and len(own) > 8:
            del own[-4]
        if bug == 'swap' and len(own) > 3:
            for at in range(len(own) - 2, 0, -1):
                a, b = own[at], own[at + 1]
                if a[4] < b[4] + b[5] and b[4] < a[4] + a[5] and 0 == a[3] == b[3]:
                    own[at], own[at + 1] = b, a
                    break
        for number, (_, _, _, kind, offset, length, place) in enumerate(own):
            if bug == 'half' and number == len(own) - 1:
                length = length // 2
            if kind == 0:
                image[offset:offset + length] = os.pread(self.journal, length, place)
            elif kind == 1 and BUG == 'trim':
                begin, end = -(-offset // 4096) * 4096, (offset + length) // 4096 * 4096
                image[begin:max(begin, end)] = bytes(max(0, end - begin))
            else:
                image[offset:offset + length] = bytes(length)
        return image


def resolve(store, names, reference):
    """(fixed name, size, branch, sequence or None for the present) of VOL[~BRANCH][@INSTANT]; KeyError if unknown."""
    left, _, instant = reference.partition('@')
    name, _, branch_name = left.partition('~')
    volume = names['volumes'][name]
    store.refresh()
    last = store.next_seq - 1
    branch = volume['kept'][branch_name] if branch_name else volume['served'][-1][0]
    if not instant:
        return left, volume['size'], branch, None
    if instant == 'now':
        seq = max([record[0] for record in store.records if record[2] == branch], default=0)
    elif instant == 'start':
        seq = names['branches'][str(volume['served'][0][0])]['fork']
    elif instant.startswith('seq:'):
        seq = int(instant[4:])
    elif instant.startswith('mark:'):
        seq = volume['marks'][instant[5:]]
    else:
        at = time.time_ns() - int(instant[1:-2]) * 10**6 if instant.startswith('-') else to_ns(instant)
        at += {'early': -2 * 10**6, 'late': 2 * 10**6}.get(BUG, 0)
        seq = max([record[0] for record in store.records if record[1] <= at], default=0)
    seq = min(seq, last)
    if not branch_name and BUG != 'future':
        branch = [b for b, since in volume['served'] if since < seq or b == volume['served'][0][0]][-1]
    return '%s@seq:%d' % (left, seq), volume['size'], branch, seq


class Session(threading.Thread):
    """One connection."""

    def __init__(self, store, heads, sock):
        super().__init__(daemon=True)
        self.store, self.heads, self.sock, self.structured = store, heads, sock, False

    def exactly(self, count):
        got = bytearray()
        while len(got) < count:
            piece = self.sock.recv(count - len(got))
            if not piece:
                raise ConnectionError
            got += piece
        return bytes(got)

    def run(self):
        try:
            if self.handshake():
                self.transmission()
        except ConnectionError:
            pass
        self.sock.close()

    def reply(self, option, kind, data=b''):
        self.sock.sendall(struct.pack('>QIII', 0x3E889045565A9, option, kind, len(data)) + data)

    def handshake(self):
        self.sock.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        self.exactly(4)
        while True:
            _, option, length = struct.unpack('>QII', self.exactly(16))
            data = self.exactly(length)
            if option == 8:
                self.structured = True
                self.reply(option, 1)
            elif option == 7:
                count, = struct.unpack_from('>I', data)
                names = self.store.names()
                try:
                    fixed, self.size, self.branch, seq = resolve(self.store, names, data[4:4 + count].decode())
                except (KeyError, ValueError):
                    self.reply(option, 0x80000006, b'unknown')
                    continue
                self.past = None if seq is None else self.store.state(names, self.branch, seq, self.size, BUG)
                if seq is None:
                    with self.store.lock:
                        if self.branch not in self.heads:
                            self.heads[self.branch] = self.store.state(names, self.branch, 1 << 60, self.size)
                flags = 1 | 4 | 8 | 32 | 64 | (2 if seq is not None else 256)
                self.reply(option, 3, struct.pack('>HQH', 0, self.size, flags))
                self.reply(option, 3, struct.pack('>H', 1) + fixed.encode())
                self.reply(option, 1)
                return True
            else:
                self.reply(option, 0x80000001)

    def transmission(self):
        while True:
            _, _, command, cookie, offset, length = struct.unpack('>IHHQQI', self.exactly(28))
            data = self.exactly(length) if command == 1 else b''
            if command == 2:
                return
            if command == 0:
                image = self.past if self.past is not None else self.heads[self.branch]
                piece = bytes(image[offset:offset + length])
                if self.structured:
                    head = struct.pack('>IHHQIQ', 0x668E33EF, 1, 1, cookie, length + 8, offset)
                    self.sock.sendall(head + piece)
                else:
                    self.sock.sendall(struct.pack('>IIQ', 0x67446698, 0, cookie) + piece)
                continue
            error = 0
            if command in (1, 4, 6):
                if self.past is not None:
                    error = 1
                else:
                    self.store.append(self.branch, {1: 0, 4: 1, 6: 2}[command], offset, length, data)
                    self.heads[self.branch][offset:offset + length] = data or bytes(length)
            self.sock.sendall(struct.pack('>IIQ', 0x67446698, error, cookie))


def serve(store, path):
    clean = os.path.join(store.path, 'clean')
    if BUG == 'lost' and os.path.exists(clean + '.not'):
        records = store.refresh()
        if len(records) > 3:
            os.truncate(store.journal, records[-3][6] - RECORD.size)
            store = Store(store.path)
    open(clean + '.not', 'w').close()
    store.refresh()
    os.truncate(store.journal, store.read_to)  # what a kill left of a last record
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)

    def end(*_):
        os.unlink(clean + '.not')
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    heads = {}
    while True:
        sock, _ = listener.accept()
        Session(store, heads, sock).start()


def main(arguments):
    arguments = [word for word in arguments if word not in ('-y', '--json', '--now')]
    if arguments[:2] == ['store', 'init']:
        os.makedirs(arguments[2])
        with open(os.path.join(arguments[2], 'names.json'), 'w') as file:
            json.dump({'volumes': {}, 'branches': {}}, file)
        return 0
    store = Store(arguments[1])
    verb = arguments[2:]
    if verb[0] == 'serve':
        serve(store, verb[verb.index('--nbd') + 1][5:])
    last = store.next_seq - 1 if store.refresh() else 0

    def new_branch(names, parent, fork):
        number = len(names['branches']) + 1
        names['branches'][str(number)] = {'parent': parent, 'fork': fork}
        return number

    def volume(size, branch):
        return {'size': size, 'served': [(branch, 0)], 'kept': {}, 'marks': {}}

    def create(names):
        names['volumes'][verb[2]] = volume(int(verb[4]), new_branch(names, None, 0))

    def mark(names):
        names['volumes'][verb[2]]['marks'][verb[3]] = last
        print(json.dumps({'seq': last, 'time': to_text(time.time_ns())}))

    def clone(names):
        _, size, branch, seq = resolve(store, names, verb[1])
        names['volumes'][verb[2]] = volume(size, new_branch(names, branch, seq))

    def rewind(names):
        _, _, branch, seq = resolve(store, names, verb[1])
        about = names['volumes'][verb[1].partition('@')[0]]
        kept = 'left%d' % len(about['kept'])
        about['kept'][kept] = about['served'][-1][0]
        about['served'].append((new_branch(names, branch, seq), last))
        print(json.dumps({'kept': kept}))

    verbs = {('vol', 'create'): create, ('mark', 'add'): mark, ('clone', verb[1]): clone, ('rewind', verb[1]): rewind}
    if tuple(verb[:2]) in verbs:
        store.change(verbs[tuple(verb[:2])])
    elif verb[0] == 'log':
        about = store.names()['volumes'][verb[1].partition('~')[0]]
        mine = {branch for branch, _ in about['served']} | set(about['kept'].values())
        before = None
        for seq, when, branch, kind, offset, length, _ in store.records:
            if branch in mine:
                shown = before if BUG == 'shift' and before else when
                print(json.dumps({'seq': seq, 'time': to_text(shown), 'op': ('write', 'trim', 'zero')[kind],
                                  'offset': offset // 4096 * 4096, 'client': 1,
                                  'length': -(-(offset + length) // 4096) * 4096 - offset // 4096 * 4096}))
                before = when
    elif verb[:2] != ['store', 'gc']:
        print('unknown: %s' % verb, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
