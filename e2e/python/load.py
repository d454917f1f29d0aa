"""A seeded load over several connections: small and large, aligned and not, trims, zeroes, FUA, flushes.

One thread drives all links; each keeps its own number of requests in flight, so requests of different
links and of one link overlap. No two operations whose fate may overlap touch exactly the same blocks,
for then the log could not tell them apart; else nothing is avoided, and most ranges are written often.
"""
import random
import select

import nbd_raw
from history_model import Op

PIECES = ((0.45, 512, 4096), (0.25, 4096, 16384), (0.18, 16384, 131072), (0.09, 131072, 524288), (0.03, 524288, 1 << 20))
COMMANDS = {'write': nbd_raw.WRITE, 'trim': nbd_raw.TRIM, 'zero': nbd_raw.ZEROES}


class Load:
    def __init__(self, seed, size, links=4, depth=8):
        self.seed, self.size, self.link_count, self.depth = seed, size, links, depth
        self.random = random.Random(seed)
        self.ops, self.links, self.busy, self.banned = [], [], {}, set()
        self.flushes = 0

    def connect(self, address, export):
        self.links = [nbd_raw.Link(address, export, structured=n % 2 == 0) for n in range(self.link_count)]
        for link in self.links:
            if link.size != self.size:
                raise nbd_raw.NbdError('the export has %d bytes, not %d' % (link.size, self.size))

    def disconnect(self):
        for link in self.links:
            link.close()
        self.links = []

    def lost(self, gone_ns):
        """After a kill at `gone_ns`: whatever is in flight may have been taken or not."""
        for link in self.links:
            for request in link.pending.values():
                if request.tag is not None:
                    request.tag.gone_ns = gone_ns
                    self.banned.add(request.tag.blocks())
            link.drop()
        self.links, self.busy = [], {}

    def run(self, count, during=None):
        """`count` more operations, all answered at the end. `during(n)` is asked before each; True ends the
        run at once, with requests in flight."""
        for n in range(count):
            if during is not None and during(n):
                return False
            link = self.random.choice(self.links)
            while len(link.pending) >= self.depth:
                self._turn(1)
            self._submit(link)
            self._turn(0)
        while any(link.pending for link in self.links):
            self._turn(1)
        return True

    def _turn(self, seconds):
        """Sends what can be sent and reads what is there; waits up to `seconds` (then 60) for something."""
        by_socket = {link.sock: link for link in self.links}
        writers = [link.sock for link in self.links if link.pump_out()]
        readable, writable, _ = select.select(list(by_socket), writers, [], 60 if seconds else 0)
        if seconds and not readable and not writable:
            raise nbd_raw.NbdError('no answer for 60 s')
        for ready in readable:
            for request in by_socket[ready].pump_in():
                if request.error:
                    raise nbd_raw.NbdError('errno %d for %s' % (request.error, request.tag or 'a flush'))
                if request.tag is not None:
                    request.tag.ack_ns = request.ack_ns
                    del self.busy[request.tag.blocks()]

    def _submit(self, link):
        draw = self.random.random()
        if draw < 0.04:
            link.submit(nbd_raw.FLUSH)
            self.flushes += 1
            return
        kind = 'trim' if draw < 0.11 else 'zero' if draw < 0.18 else 'write'
        op = self._place(kind)
        flags = nbd_raw.FUA if self.random.random() < 0.05 else 0
        if kind == 'zero' and self.random.random() < 0.5:
            flags |= nbd_raw.NO_HOLE
        data = op.content() if kind == 'write' else b''
        request = link.submit(COMMANDS[kind], op.offset, op.length, data, flags, tag=op)
        op.issue_ns = request.issue_ns
        self.ops.append(op)
        self.busy[op.blocks()] = op

    def _place(self, kind):
        draw = self.random
        while True:
            at = draw.random()
            for share, low, high in PIECES:
                at -= share
                if at < 0:
                    break
            length = draw.randint(low, high)
            offset = draw.randrange(self.size)
            shape = draw.random()
            if shape < 0.5:  # whole blocks
                offset, length = offset & ~4095, max(4096, length & ~4095)
            elif shape < 0.9:  # whole sectors
                offset, length = offset & ~511, max(512, length & ~511)
            length = min(length, self.size - offset)
            op = Op(len(self.ops), kind, offset, length, self.seed)
            if op.blocks() not in self.busy and op.blocks() not in self.banned:
                return op
