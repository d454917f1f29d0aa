#!/usr/bin/env python3
"""A sparse image of 100 GiB with 8 GiB of data: opened, adopted, filled through kills, exported.

For qcow2, VHDX and VMDK (made by qemu-img from one disk of stamps):

- `image open`: seconds from the command to the first block that a client has read.
- `image adopt --fill`: seconds until the volume can be read; the server is killed in mid-fill and
  started again, several times; blocks are read meanwhile. At the end the volume is independent of the
  image, which is moved away, and every block of data, and samples of the rest, are as they were.
- `image export` to stdout of every format: seconds to its first byte.

    large_images.py --program strandline --dir D [--size 100] [--data 8] [--kills 3] [--formats qcow2,vhdx,vmdk]

Exit 0 if all bytes are right and all times are within bounds (0.5 s, 1 s, 1 s), else 1.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import nbd_raw
from product import Product

BLOCK = 1 << 20
EXPORTS = [('raw', None), ('qcow2', None), ('qcow2', 'zstd'), ('vhdx', None), ('vhd', None), ('vmdk', None),
           ('vmdk', 'streamOptimized'), ('vdi', None)]


def stamp(number):
    """A block of data: half of it noise, half of it packs well."""
    noise = hashlib.shake_256(b'%d' % number).digest(BLOCK // 2)
    return noise + (b'%16d' % number) * (BLOCK // 32)


class Disk:
    def __init__(self, size, data, chance):
        self.size = size
        # Spread over the whole disk, the first and the last block too.
        count, step = data // BLOCK, size // data
        self.places = sorted({0, size // BLOCK - 1} | {n * step + chance.randrange(step) for n in range(count)})

    def write(self, path):
        with open(path, 'wb') as file:
            file.truncate(self.size)
            for place in self.places:
                os.pwrite(file.fileno(), stamp(place), place * BLOCK)

    def wrong(self, link, places):
        """Places whose bytes are not as they were."""
        held, bad, queue = set(self.places), [], []
        for place in places:
            queue.append((place, link.submit(nbd_raw.READ, place * BLOCK, BLOCK)))
            if len(queue) == 8:
                self._settle(link, queue, held, bad)
        self._settle(link, queue, held, bad)
        return bad

    @staticmethod
    def _settle(link, queue, held, bad):
        for place, request in queue:
            link.wait(request)
            wanted = stamp(place) if place in held else bytes(BLOCK)
            if request.error or bytes(request.data) != wanted:
                bad.append((place, request.error))
        queue.clear()


class Verdict:
    def __init__(self):
        self.short = []

    def time(self, what, seconds, most):
        print('  %-44s %7.3f s  (at most %.1f)' % (what, seconds, most), flush=True)
        if seconds > most:
            self.short.append('%s took %.3f s' % (what, seconds))

    def right(self, what, wrong):
        print('  %-44s %s' % (what, 'right' if not wrong else 'WRONG %r' % (wrong[:5],)), flush=True)
        if wrong:
            self.short.append(what)


def first_read(program, path, form, work, verdict):
    """`image open`, and its first read."""
    sock = os.path.join(work, 'open.sock')
    begun = time.monotonic()
    process = subprocess.Popen([program, 'image', 'open', path, '--format', form, '--nbd', 'unix:' + sock],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                link = nbd_raw.Link(sock, '')
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError('image open ended with %d' % process.returncode)
                time.sleep(0.002)
        found = link.read(0, 4096)
        verdict.time('image open %s: first read' % form, time.monotonic() - begun, 0.5)
        verdict.right('image open %s: its bytes' % form, [] if found == stamp(0)[:4096] else [0])
        link.close()
    finally:
        process.terminate()
        process.wait(60)


def state(product):
    """What `vol show` says of the volume's image; None once it stands alone."""
    return json.loads(product.cli('vol', 'show', 'vol', '--json')).get('image')


def adopt(product, path, form, disk, kills, chance, verdict):
    product.start()
    begun = time.monotonic()
    product.cli('image', 'adopt', path, 'vol', '--format', form, '--fill')
    link = nbd_raw.Link(product.socket, 'vol')
    link.read(0, 4096)
    verdict.time('image adopt %s: first read' % form, time.monotonic() - begun, 1.0)
    for number in range(kills):
        time.sleep(chance.uniform(0.5, 3))
        verdict.right('image adopt %s: read in mid-fill' % form, disk.wrong(link, chance.sample(disk.places, 20)))
        print('  killed; before: %r' % (state(product),))
        product.kill()
        product.start()
        link = nbd_raw.Link(product.socket, 'vol')
    begun = time.monotonic()
    while state(product) is not None:
        if time.monotonic() - begun > 1800:
            raise RuntimeError('the fill does not end: %r' % (state(product),))
        time.sleep(0.2)
    print('  independent after another %.1f s' % (time.monotonic() - begun), flush=True)
    os.rename(path, path + '.away')
    verdict.right('image adopt %s: every block of data' % form, disk.wrong(link, disk.places))
    samples = [chance.randrange(disk.size // BLOCK) for _ in range(300)]
    verdict.right('image adopt %s: samples of the rest' % form, disk.wrong(link, samples))
    link.close()


def exports(product, verdict):
    for form, kind in EXPORTS:
        words = ['-s', product.store, 'image', 'export', 'vol', '-', '--to', form] + (['--subformat', kind] if kind else [])
        begun = time.monotonic()
        process = subprocess.Popen([product.program[0], *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   env=product.environment)
        first = process.stdout.read(1)
        verdict.time('image export %s %s: first byte' % (form, kind or ''), time.monotonic() - begun, 1.0)
        verdict.right('image export %s %s: a byte' % (form, kind or ''), [] if first else ['none'])
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', required=True)
    parser.add_argument('--dir', required=True, help='where there is room for four times the data')
    parser.add_argument('--size', type=int, default=100, help='GiB')
    parser.add_argument('--data', type=int, default=8, help='GiB')
    parser.add_argument('--kills', type=int, default=3)
    parser.add_argument('--formats', default='qcow2,vhdx,vmdk')
    parser.add_argument('--seed', type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print('seed', seed, flush=True)
    chance, verdict = random.Random(seed), Verdict()
    disk = Disk(given.size << 30, given.data << 30, chance)
    for form in given.formats.split(','):
        work = tempfile.mkdtemp(prefix='strandline-large-', dir=given.dir)
        product = Product([given.program], work)
        try:
            raw, path = os.path.join(work, 'disk.raw'), os.path.join(work, 'disk.' + form)
            disk.write(raw)
            subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', form, raw, path], check=True)
            os.unlink(raw)
            print('%s: %d GiB, %.1f GiB on disk' % (form, given.size, os.stat(path).st_blocks * 512 / (1 << 30)), flush=True)
            first_read(given.program, path, form, work, verdict)
            product.init()
            adopt(product, path, form, disk, given.kills, chance, verdict)
            exports(product, verdict)
            product.stop()
        finally:
            product.kill()
            shutil.rmtree(work, ignore_errors=True)
    for line in verdict.short:
        print('SHORT', line)
    return 1 if verdict.short else 0


if __name__ == '__main__':
    sys.exit(main())
