#!/usr/bin/env python3
"""Does damage stay local and loud? Bit flips and truncations over every kind of file of a store.

    bitflips.py --program 'strandline' [--count 200] [--seed N] [--may-refuse manifest]

A store is filled by a seeded load, several instants of it are read (and compared with the model of
history_model.py), and the server is stopped. Then, `count` times: copy the store, flip one bit or cut
one file off at a random place, start the server on the copy, read the volume and every instant over
NBD. For each 4 KiB block there are two right answers: the bytes it had, or an error. Wrong bytes fail
the check, and so does a server that dies. A server that refuses to start must say so with exit code 7
and may do it only for the kinds of --may-refuse. A flipped bit inside a cell of a pack or bulk file
concerns one block: more failing block addresses than one fail the check too.

Exit: 0 damage was local and loud, 1 it was not, 2 usage.
"""
import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter

import nbd_raw
from history_model import BLOCK, History, Violation, sequence_of
from instants import VOLUME, parse_size
from load import Load
from product import CommandFailed, Product

DAMAGED = 7  # exit code: damaged bytes met
ONE_CELL = ('pack', 'bulk')  # behind their header these hold nothing but cells


def kind_of(relative):
    top = relative.split(os.sep)[0]
    return 'super' if top.startswith('super') else top


def files_of(store):
    """{kind: [(relative path, size)]} of all files that hold bytes; sockets and locks are none of it."""
    kinds = {}
    for root, _, names in os.walk(store):
        for name in names:
            path = os.path.join(root, name)
            relative = os.path.relpath(path, store)
            if os.path.isfile(path) and name != 'lock' and not name.endswith(('.lock', '.sock')) and os.path.getsize(path):
                kinds.setdefault(kind_of(relative), []).append((relative, os.path.getsize(path)))
    return {kind: sorted(files) for kind, files in sorted(kinds.items())}


def used_places(path):
    """A place in a part of the file that is not a hole nor a long run of zeros: damage there can matter."""
    with open(path, 'rb') as file:
        data = file.read()
    return [at for at in range(0, len(data), BLOCK) if any(data[at:at + BLOCK])], len(data)


def prepare(args, product):
    """Fills the store; [(reference, its bytes)], each compared with the model."""
    product.init(*shlex.split(args.init))
    product.cli('vol', 'create', VOLUME, '--size', str(args.size))
    product.start()
    load, marks = Load(args.seed, args.size), []
    for number in range(4):
        load.connect(product.socket, VOLUME)
        load.run(args.ops // 4)
        load.disconnect()
        marks.append('%s@seq:%d' % (VOLUME, product.json('mark', 'add', VOLUME, 'm%d' % number)['seq']))
    history = History(args.size)
    history.witness(load.ops, product.json_lines('log', VOLUME, '--by', 'write'))
    good = []
    for reference in marks[:-1] + ['%s@mark:m1' % VOLUME]:
        link = nbd_raw.Link(product.socket, reference)
        seq, image = sequence_of(link.fixed_name), bytes(link.read_all())
        link.close()
        (_, state), = history.replay([seq])
        if image != state:
            raise Violation('%s: %s' % (reference, history.explain(state, image, seq)))
        good.append((reference, image))
    link = nbd_raw.Link(product.socket, VOLUME)
    good.append((VOLUME, bytes(link.read_all())))
    link.close()
    product.stop()
    return good


def damage(pick, store, kinds, number):
    """Damages one file; (kind, description, whether one cell alone is concerned)."""
    kind = list(kinds)[number % len(kinds)]
    relative, size = pick.choice(kinds[kind])
    path = os.path.join(store, relative)
    if pick.random() < 0.2:
        at = pick.randrange(size)
        os.truncate(path, at)
        return kind, '%s cut to %d of %d bytes' % (relative, at, size), False
    places, size = used_places(path)
    at = min(pick.choice(places or [0]) + pick.randrange(BLOCK), size - 1)
    bit = 1 << pick.randrange(8)
    with open(path, 'r+b') as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))
    return kind, '%s byte %d bit 0x%02x' % (relative, at, bit), kind in ONE_CELL and at >= BLOCK


def read_around(link, piece=1 << 20):
    """(bytes, set of blocks that answer with an error): failed pieces are read again block by block."""
    image, failed = bytearray(link.size), set()
    requests = [link.submit(nbd_raw.READ, at, min(piece, link.size - at)) for at in range(0, link.size, piece)]
    again = []
    for request in requests:
        link.wait(request)
        if request.error:
            again.append(request)
        else:
            image[request.offset:request.offset + request.length] = request.data
    for broad in again:
        blocks = [link.submit(nbd_raw.READ, at, min(BLOCK, link.size - at))
                  for at in range(broad.offset, broad.offset + broad.length, BLOCK)]
        for request in blocks:
            link.wait(request)
            if request.error:
                failed.add(request.offset // BLOCK)
            else:
                image[request.offset:request.offset + request.length] = request.data
    return image, failed


def judge(product, good, one_cell):
    """What one damaged copy does: (verdict, details). Verdicts: right, errors, refused, or WRONG …"""
    try:
        product.start()
    except CommandFailed as failure:
        return ('refused', failure.errors.strip()[-200:]) if failure.status == DAMAGED else ('WRONG start', str(failure))
    failing, unopened = set(), 0
    for reference, wanted in good:
        try:
            link = nbd_raw.Link(product.socket, reference)
        except nbd_raw.Refused:
            unopened += 1
            continue
        except (OSError, nbd_raw.NbdError) as failure:
            return 'WRONG dead', '%s: %s\n%s' % (reference, failure, product.log_tail())
        try:
            image, failed = read_around(link)
        except (OSError, nbd_raw.NbdError) as failure:
            return 'WRONG dead', '%s: %s\n%s' % (reference, failure, product.log_tail())
        link.close()
        if len(image) != len(wanted):
            return 'WRONG size', '%s has %d bytes, not %d' % (reference, len(image), len(wanted))
        wrong = [at // BLOCK for at in range(0, len(wanted), BLOCK)
                 if at // BLOCK not in failed and image[at:at + BLOCK] != wanted[at:at + BLOCK]]
        if wrong:
            return 'WRONG bytes', '%s: %d blocks, the first %d' % (reference, len(wrong), wrong[0])
        failing |= failed
    if not product.running():
        return 'WRONG dead', product.log_tail()
    if one_cell and (len(failing) > 1 or unopened):
        return 'WRONG wide', 'one cell was damaged, yet %d blocks and %d instants fail' % (len(failing), unopened)
    if failing or unopened:
        return 'errors', '%d blocks, %d instants not opened' % (len(failing), unopened)
    return 'right', ''


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', required=True, help='command with the grammar of strandline(1)')
    parser.add_argument('--count', type=int, default=200)
    parser.add_argument('--ops', type=int, default=1200)
    parser.add_argument('--size', type=parse_size, default=8 << 20)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--init', default='--segment-size 8M')
    parser.add_argument('--serve', default='')
    parser.add_argument('--may-refuse', default='manifest', help='kinds of files whose damage may stop a start')
    parser.add_argument('--keep', help='directory for the stores that fail')
    args = parser.parse_args()
    args.seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), 'big')
    print('seed %d' % args.seed, flush=True)
    work = tempfile.mkdtemp(prefix='bitflips-')
    product = Product(shlex.split(args.program), work, serve_arguments=shlex.split(args.serve))
    pick, seen, bad = random.Random(args.seed ^ 0xB17), Counter(), 0
    try:
        good = prepare(args, product)
        origin, kinds = product.store, files_of(product.store)
        print('store: ' + ', '.join('%d %s' % (len(files), kind) for kind, files in kinds.items()), flush=True)
        for number in range(args.count):
            product.store = os.path.join(work, 'copy')
            shutil.rmtree(product.store, ignore_errors=True)
            subprocess.run(['cp', '-a', '--sparse=always', origin, product.store], check=True)
            open(product.log_path, 'w').close()
            kind, what, one_cell = damage(pick, product.store, kinds, number)
            verdict, details = judge(product, good, one_cell)
            if verdict != 'refused' and 'WRONG' not in verdict:
                try:
                    product.stop()
                except CommandFailed as failure:
                    verdict, details = 'WRONG stop', str(failure)
            product.kill()
            if verdict == 'refused' and kind not in args.may_refuse.split(','):
                verdict = 'WRONG refusal'
            seen[kind, verdict] += 1
            if 'WRONG' in verdict:
                bad += 1
                print('%s: %s (number %d): %s' % (verdict, what, number, details), flush=True)
                if args.keep:
                    shutil.copytree(product.store, os.path.join(args.keep, str(number)), dirs_exist_ok=True)
        for (kind, verdict), count in sorted(seen.items()):
            print('%-10s %-14s %d' % (kind, verdict, count))
    except (Violation, CommandFailed, nbd_raw.NbdError, OSError) as failure:
        print('FAILED before any damage, or outside it: %s' % failure)
        bad += 1
    finally:
        product.kill()
        shutil.rmtree(work, ignore_errors=True)
    if bad:
        print('%d of %d damaged copies were not right; repeat with: %s --seed %d' % (
            bad, args.count, shlex.join(sys.argv), args.seed))
        return 1
    print('%d damaged copies: the old bytes or an error, the server stayed up' % args.count)
    return 0


if __name__ == '__main__':
    sys.exit(main())
