"""What a volume's past must be, from the clients' side alone.

The client knows of each operation when it was sent (`issue_ns`) and when it was answered
(`ack_ns`), not in which order the server took operations that overlapped. The server's own log
(`log VOL --by write`) names an order; here it is only a *witness*. It is believed after these hold:

W1  each logged write is one that a client sent, and none is logged twice;
W2  each acknowledged write is logged; one whose answer a kill cut off may be;
W3  an operation answered before another was sent has the smaller sequence;
W4  the logged time lies between issue and acknowledgement.

An instant that answers with sequence S is right if its bytes equal the replay of all operations with
a sequence <= S, byte for byte, and S is not below any operation acknowledged at or before the
instant and below every operation sent after it. Being a prefix of an order that W3 allows, such a
state shows no half of a request and nothing that lacks its predecessors.

A block is 4096 bytes: the log names whole blocks, the replay knows exact bytes.
"""
import bisect
import hashlib
import re
from datetime import datetime, timezone

BLOCK = 4096
FOREVER = 1 << 62


class Violation(Exception):
    """The server's history contradicts what its clients saw."""


class Op:
    """One operation of a client. `ack_ns` is None while unanswered and after a kill; `gone_ns` is the
    time of the kill that left it unanswered."""
    __slots__ = ('number', 'kind', 'offset', 'length', 'issue_ns', 'ack_ns', 'gone_ns', 'seq', 'seed')

    def __init__(self, number, kind, offset, length, seed):
        self.number, self.kind, self.offset, self.length, self.seed = number, kind, offset, length, seed
        self.issue_ns = self.ack_ns = self.gone_ns = self.seq = None

    def content(self):
        """Bytes that no other operation writes and that differ at every place."""
        if self.kind != 'write':
            return bytes(self.length)
        return hashlib.shake_128(b'%d/%d' % (self.seed, self.number)).digest(self.length)

    def blocks(self):
        return self.offset // BLOCK, (self.offset + self.length - 1) // BLOCK

    def end_ns(self):
        """The latest moment at which the server can have taken it."""
        return self.ack_ns or self.gone_ns or FOREVER

    def __str__(self):
        return 'op %d (%s %d+%d, issued %s, answered %s)' % (
            self.number, self.kind, self.offset, self.length, self.issue_ns, self.ack_ns)


def to_ns(text):
    """RFC 3339 in UTC, up to nine digits, as nanoseconds since 1970."""
    found = re.fullmatch(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)', text)
    if not found:
        raise Violation('`%s` is no time in RFC 3339 UTC' % text)
    whole = datetime.strptime(found[1], '%Y-%m-%dT%H:%M:%S').replace(tzinfo=timezone.utc)
    return int(whole.timestamp()) * 10**9 + int((found[2] or '0').ljust(9, '0'))


def to_text(ns):
    seconds, rest = divmod(ns, 10**9)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime('%Y-%m-%dT%H:%M:%S') + '.%09dZ' % rest


def sequence_of(fixed_name):
    """The sequence in a fixed export name such as vol@seq:123."""
    found = re.search(r'@seq:(\d+)$', fixed_name or '')
    if not found:
        raise Violation('the server names the instant `%s`, which holds no sequence' % fixed_name)
    return int(found[1])


class History:
    """Operations in the witnessed order, and rewinds between them."""

    def __init__(self, size):
        self.size = size
        self.ops = []
        self.rewinds = []  # (last sequence before the rewind, sequence it went to)

    def witness(self, ops, entries):
        """Orders `ops` by the log's `entries` and checks W1-W4."""
        waiting = {}
        for op in sorted(ops, key=lambda op: op.issue_ns):
            op.seq = None
            waiting.setdefault(op.blocks(), []).append(op)
        ordered, seen = [], {}
        for entry in sorted((entry for entry in entries if 'op' in entry), key=lambda entry: entry['seq']):
            if entry['op'] not in ('write', 'trim', 'zero'):
                continue
            if entry['seq'] in seen:
                if entry == seen[entry['seq']]:
                    continue  # the same write in the log of the present and of a branch
                raise Violation('W1: two different writes are logged as sequence %d' % entry['seq'])
            seen[entry['seq']] = entry
            key = entry['offset'] // BLOCK, (entry['offset'] + entry['length'] - 1) // BLOCK
            if not waiting.get(key):
                raise Violation('W1: sequence %d (%s %d+%d) is logged but nobody sent it' % (
                    entry['seq'], entry['op'], entry['offset'], entry['length']))
            op = waiting[key].pop(0)
            op.seq = entry['seq']
            taken = to_ns(entry['time'])
            if not op.issue_ns <= taken <= op.end_ns():
                raise Violation('W4: %s is logged at %s (%d)' % (op, entry['time'], taken))
            ordered.append(op)
        for op in ops:
            if op.seq is None and op.ack_ns is not None:
                raise Violation('W2: %s was acknowledged and is not in the log' % op)
        earliest_end, later = FOREVER, None
        for op in reversed(ordered):
            if earliest_end < op.issue_ns:
                raise Violation('W3: %s has sequence %d, behind %s, which has %d and was answered first' % (
                    op, op.seq, later, later.seq))
            if op.end_ns() < earliest_end:
                earliest_end, later = op.end_ns(), op
        self.ops = ordered
        self.sequences = [op.seq for op in ordered]
        acknowledged = sorted((op.ack_ns, op.seq) for op in ordered if op.ack_ns is not None)
        self.ack_times = [ack for ack, _ in acknowledged]
        self.ack_highest = []
        for _, seq in acknowledged:
            self.ack_highest.append(max(seq, self.ack_highest[-1] if self.ack_highest else 0))
        issued = sorted(((op.issue_ns, op.seq) for op in ordered), reverse=True)
        self.issue_times, lowest = [], []
        for issue, seq in issued:
            self.issue_times.append(issue)
            lowest.append(min(seq, lowest[-1] if lowest else FOREVER))
        self.issue_times.reverse()
        self.issue_lowest = list(reversed(lowest))

    def bounds(self, from_ns, to_ns_):
        """(lowest, first forbidden) sequence of an instant that lies somewhere in [from_ns, to_ns_]."""
        at = bisect.bisect_right(self.ack_times, from_ns)
        lowest = self.ack_highest[at - 1] if at else 0
        at = bisect.bisect_right(self.issue_times, to_ns_)
        forbidden = self.issue_lowest[at] if at < len(self.issue_lowest) else FOREVER
        return lowest, forbidden

    def check_bounds(self, what, seq, from_ns, to_ns_):
        lowest, forbidden = self.bounds(from_ns, to_ns_)
        if seq < lowest:
            raise Violation('%s answers seq %d; sequence %d was acknowledged before it' % (what, seq, lowest))
        if seq >= forbidden:
            raise Violation('%s answers seq %d; sequence %d was sent after it' % (what, seq, forbidden))

    def replay(self, wanted):
        """Yields (sequence, state) for each of `wanted` in rising order; `state` is reused, copy it to keep it."""
        state, kept = bytearray(self.size), {}
        targets = {target for _, target in self.rewinds}
        stops = sorted(set(wanted) | targets | {boundary for boundary, _ in self.rewinds})
        rewinds = dict(self.rewinds)
        wanted, at = set(wanted), 0
        for stop in stops:
            while at < len(self.ops) and self.ops[at].seq <= stop:
                op = self.ops[at]
                state[op.offset:op.offset + op.length] = op.content()
                at += 1
            if stop in targets:
                kept[stop] = bytes(state)
            if stop in wanted:
                yield stop, state
            if stop in rewinds:
                state[:] = kept[rewinds[stop]]

    def explain(self, wanted, got, seq):
        """Where `got` first differs from `wanted`, and whose bytes stand there."""
        if len(wanted) != len(got):
            return 'it has %d bytes, not %d' % (len(got), len(wanted))
        blocks = [at for at in range(0, len(wanted), 512) if wanted[at:at + 512] != got[at:at + 512]]
        at = blocks[0]
        piece = bytes(got[at:at + 512])
        owner = 'nobody known'
        for op in self.ops:
            begin, end = max(at, op.offset), min(at + 512, op.offset + op.length)
            if begin < end and op.content()[begin - op.offset:end - op.offset] == piece[begin - at:end - at]:
                owner = '%s, sequence %d' % (op, op.seq)
        return '%d of its 512-byte pieces differ from the model at seq %d, the first at %d: bytes of %s' % (
            len(blocks), seq, at, owner)
