#!/usr/bin/env python3
"""Does docs/format.md say enough? Many stores, each made and ended in another way, read by it alone.

    reader_stores.py --program 'strandline' [--stores 20] [--ops 1500] [--size 8M] [--seed N]

Each store gets a seeded load with marks between (reconnects, a clone that is written to, a rewind in
some), packed or not, small segments or the default, and ends by a stop or by SIGKILL. Then the reader
of the format (reader/strandline_reader.py, no code of the server) gives the bytes of every mark, the
clone and the present; the server is started again and serves the same. Both must agree byte for byte.

Exit: 0 they agree on every store, 1 they do not, 2 usage.
"""
import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile

import nbd_raw
from instants import VOLUME, parse_size
from load import Load
from product import CommandFailed, Product

READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'reader', 'strandline_reader.py')


def fill(product, pick, args):
    """Writes; the references that are to agree."""
    product.init(*pick.choice(([], ['--segment-size', '8M'])))
    product.cli('vol', 'create', VOLUME, '--size', str(args.size))
    product.serve_arguments = pick.choice(([], [], ['--no-pack']))
    product.start()
    load, wanted, stretches = Load(pick.randrange(1 << 30), args.size), [], 3
    for number in range(stretches):
        load.connect(product.socket, VOLUME)
        load.run(args.ops // stretches)
        load.disconnect()
        wanted.append('%s@seq:%d' % (VOLUME, product.json('mark', 'add', VOLUME, 'm%d' % number)['seq']))
        if number == 0 and pick.random() < 0.5:
            product.stop()
            product.start()
    product.cli('clone', wanted[1], 'twin')
    twin = Load(pick.randrange(1 << 30), args.size)
    twin.connect(product.socket, 'twin')
    twin.run(args.ops // 6)
    twin.disconnect()
    if pick.random() < 0.4:
        product.cli('rewind', wanted[0], '--yes')
    return wanted + ['twin', VOLUME]


def served(product, reference):
    link = nbd_raw.Link(product.socket, reference)
    image = bytes(link.read_all())
    link.close()
    return image


def one(number, args, pick, work):
    product = Product(shlex.split(args.program), work)
    try:
        wanted, out = fill(product, pick, args), os.path.join(work, 'read.raw')
        kill = pick.random() < 0.5
        product.kill() if kill else product.stop()
        read = {}
        for reference in wanted:
            done = subprocess.run([sys.executable, READER, product.store, '--key', product.key, 'extract', reference, out],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                return '%s: the reader ended with %d: %s' % (reference, done.returncode, done.stdout.strip()[-300:])
            with open(out, 'rb') as file:
                read[reference] = file.read()
        product.start()
        for reference, image in read.items():
            if served(product, reference) != image:
                return '%s: the reader sees other bytes than the server' % reference
        product.stop()
        print('store %2d: %d instants of %s agree (%s, %s)' % (
            number, len(wanted), VOLUME, ' '.join(product.serve_arguments) or 'packed', 'killed' if kill else 'stopped'), flush=True)
        return None
    except (CommandFailed, nbd_raw.NbdError, OSError) as failure:
        return str(failure)
    finally:
        product.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', required=True, help='command with the grammar of strandline(1)')
    parser.add_argument('--stores', type=int, default=20)
    parser.add_argument('--ops', type=int, default=1500)
    parser.add_argument('--size', type=parse_size, default=8 << 20)
    parser.add_argument('--seed', type=int, default=None)
    args = parser.parse_args()
    args.seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), 'big')
    print('seed %d' % args.seed, flush=True)
    pick, bad = random.Random(args.seed), 0
    for number in range(args.stores):
        work = tempfile.mkdtemp(prefix='reader-')
        trouble = one(number, args, random.Random(pick.random()), work)
        if trouble:
            bad += 1
            print('WRONG store %d: %s' % (number, trouble), flush=True)
        shutil.rmtree(work, ignore_errors=True)
    print('%d of %d stores agree' % (args.stores - bad, args.stores))
    if bad:
        print('repeat with: %s --seed %d' % (shlex.join(sys.argv), args.seed))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
