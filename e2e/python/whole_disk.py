#!/usr/bin/env python3
"""What does it cost to trim a whole disk? One of 1 TiB with data scattered over it.

    whole_disk.py --program 'strandline' [--size 1024] [--blocks 20000] [--seed N] [--seconds-max 1.0] [--stall-max 0.1]

Writes blocks at random places, marks the instant, then trims the whole disk in the longest requests
that NBD has, and the same again with WRITE_ZEROES, while a client of another volume writes one block
after the other. Checks: the disk then reads zero, the instant before reads as it was, the server wrote
at most 1 MiB for each of the two beside the other client's blocks, each took at most --seconds-max, and
no write of the other client waited longer than --stall-max (seconds; 0: only printed).

Exit: 0 all holds, 1 something does not, 2 usage.
"""
import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
import threading
import time

import nbd_raw
from product import CommandFailed, Product

BLOCK = 4096
PIECE = (1 << 32) - BLOCK  # the longest length that is a multiple of a block
LOG_MAX = 1 << 20
PER_WRITE = 3 * BLOCK  # what one block at a time costs in the log: cell, header, padding, and some clock


def pattern(number):
    return number.to_bytes(8, 'little') * (BLOCK // 8)


class Other(threading.Thread):
    """Writes one block at a time to a volume of its own."""

    def __init__(self, socket):
        super().__init__(name='other')
        self.link = nbd_raw.Link(socket, 'other')
        self.ended, self.waits, self.failure = threading.Event(), [], None

    def run(self):
        try:
            at = 0
            while not self.ended.is_set():
                begun = time.monotonic()
                self.link.write(at, pattern(at + 1))
                self.waits.append(time.monotonic() - begun)
                at = (at + BLOCK) % (1 << 24)
            self.link.close()
        except (OSError, nbd_raw.NbdError) as failure:
            self.failure = failure


def written_bytes(process):
    with open('/proc/%d/io' % process.pid) as file:
        return next(int(line.split()[1]) for line in file if line.startswith('write_bytes'))


def over_all(link, command):
    """The whole disk in pieces, all in flight at once; seconds."""
    begun = time.monotonic()
    requests = [link.submit(command, at, min(PIECE, link.size - at)) for at in range(0, link.size, PIECE)]
    for request in requests:
        link.wait(request)
        if request.error:
            raise OSError(request.error, os.strerror(request.error))
    return time.monotonic() - begun


def fill(link, blocks):
    queue = []
    for number, at in blocks.items():
        queue.append(link.submit(nbd_raw.WRITE, at, data=pattern(number)))
        if len(queue) >= 64:
            link.wait(queue.pop(0))
    for request in queue:
        link.wait(request)
    link.flush()


def wrong_blocks(link, blocks, wanted):
    wrong = 0
    for number, at in blocks.items():
        wrong += link.read(at, BLOCK) != wanted(number)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', required=True, help='command with the grammar of strandline(1)')
    parser.add_argument('--size', type=int, default=1024, help='GiB')
    parser.add_argument('--blocks', type=int, default=20000)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--seconds-max', type=float, default=1.0)
    parser.add_argument('--stall-max', type=float, default=0.1)
    args = parser.parse_args()
    args.seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), 'big')
    print('seed %d' % args.seed, flush=True)
    work = tempfile.mkdtemp(prefix='whole-disk-')
    product = Product(shlex.split(args.program), work)
    pick, bad = random.Random(args.seed), []
    try:
        product.init()
        product.cli('vol', 'create', 'vol', '--size', '%dG' % args.size)
        product.cli('vol', 'create', 'other', '--size', '16M')
        product.start()
        link = nbd_raw.Link(product.socket, 'vol')
        places = pick.sample(range(link.size // BLOCK), args.blocks)
        blocks = {number: place * BLOCK for number, place in enumerate(places, 1)}
        for name, command in (('TRIM', nbd_raw.TRIM), ('WRITE_ZEROES', nbd_raw.ZEROES)):
            fill(link, blocks)
            mark = product.json('mark', 'add', 'vol', name.lower())['seq']
            other = Other(product.socket)
            other.start()
            time.sleep(0.5)
            calm, before = len(other.waits), written_bytes(product.process)
            seconds = over_all(link, command)
            link.flush()
            log, during = written_bytes(product.process) - before, len(other.waits) - calm
            other.ended.set()
            other.join()
            if other.failure:
                raise other.failure
            longest, own = max(other.waits[calm:], default=0.0), log - during * PER_WRITE
            print('%s of %d GiB with %d blocks: %.3f s; %d KiB written, of them %d writes of another client, '
                  'the longest %.1f ms' % (name, args.size, args.blocks, seconds, log >> 10, during, longest * 1e3), flush=True)
            if seconds > args.seconds_max:
                bad.append('%s took %.3f s' % (name, seconds))
            if own > LOG_MAX:
                bad.append('%s wrote %d KiB beside the other client' % (name, own >> 10))
            if args.stall_max and longest > args.stall_max:
                bad.append('a write of another client waited %.1f ms' % (longest * 1e3))
            wrong = wrong_blocks(link, blocks, lambda _: bytes(BLOCK))
            if wrong:
                bad.append('after %s %d blocks are not zero' % (name, wrong))
            past = nbd_raw.Link(product.socket, 'vol@seq:%d' % mark)
            wrong = wrong_blocks(past, blocks, pattern)
            past.close()
            if wrong:
                bad.append('before %s %d blocks are not what they were' % (name, wrong))
        link.close()
        product.stop()
    except (CommandFailed, nbd_raw.NbdError, OSError) as failure:
        bad.append(str(failure))
    finally:
        product.kill()
        shutil.rmtree(work, ignore_errors=True)
    for line in bad:
        print('WRONG ' + line)
    if bad:
        print('repeat with: %s --seed %d' % (shlex.join(sys.argv), args.seed))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
