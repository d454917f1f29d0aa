#!/usr/bin/env python3
"""Do real machines live with the server? Guests of the lab boot from a volume and use the kernel's NBD client.

    guests.py boots|kernel-nbd|images --program 'strandline' --lab LAB [--megabytes N]

boots: a bootable disk is copied into a volume over NBD and booted; the machine is killed, booted again,
killed; then a clone and a writable `open` of an instant between the two are booted, and each must hold
what was synced by then and nothing of what others wrote.
kernel-nbd: a guest makes ext4 on /dev/nbd0, fills it, removes a part, trims. fsck must find it clean, and
the digest must be the same after a reconnect, in a second guest after a restart of the server, and
as another client reads it.
images: a machine boots from images in qcow2, VHDX and VMDK that were only adopted, is killed with its server in
mid-fill, and boots again; then from a qcow2 and a VMDK exported of it, and from an overlay over the same
two as virtual files of `mount`. Each holds what the machine wrote.

Guests need QEMU and root (see the lab's README). Exit: 0 all held, 1 something did not, 2 usage.
"""
import argparse
import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from product import CommandFailed, Product

VOLUME = 'vm'
BOOT_MIB = 768
BOOT_SECONDS = 300
RUN_SECONDS = 900
GUEST_SEES_HOST_AS = '10.0.2.2'


class Broken(Exception):
    """A guest saw something it must not see."""


class Lab:
    def __init__(self, program):
        self.program = program

    def run(self, *words):
        """What the guest printed; Broken unless its script ended with 0."""
        command = [self.program] + list(words)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        sys.stderr.write(done.stderr)
        if done.returncode:
            raise Broken('%s ended with %d\n%s' % (shlex.join(command), done.returncode, done.stdout[-2000:]))
        return done.stdout

    def boot(self, what, uri, script, kill):
        print('boot: ' + what, flush=True)
        words = ['boot', '--nbd', uri, '--timeout', str(BOOT_SECONDS)] + (['--kill'] if kill else [])
        return self.run(*words, '--', 'set -e; ' + script)

    def boot_file(self, what, file, script):
        print('boot: ' + what, flush=True)
        return self.run('boot', '--disk', file, '--timeout', str(BOOT_SECONDS), '--', 'set -e; ' + script)


def boots(args, lab, work):
    disk = os.path.join(work, 'boot.raw')
    lab.run('boot-disk', disk, '--size', str(BOOT_MIB))
    product = Product(shlex.split(args.program), work)
    product.init()
    product.cli('vol', 'create', VOLUME, '--size', '%dM' % BOOT_MIB)
    product.start()
    try:
        def uri(reference):
            return product.json('vol', 'show', reference)['uri']
        present = uri(VOLUME)
        subprocess.run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', disk, present], check=True)
        lab.boot('the copy', present, 'echo 1 > /root/first; sync', kill=True)
        between = 'seq:%d' % product.json('vol', 'show', VOLUME + '@now')['seq']
        lab.boot('again, after the kill', present, 'grep -x 1 /root/first; rm /root/first; echo 2 > /root/second; sync', kill=True)
        product.cli('clone', '%s@%s' % (VOLUME, between), VOLUME + '-clone')
        as_then = 'grep -x 1 /root/first; test ! -e /root/second; test ! -e /root/other'
        lab.boot('a clone of the instant between', uri(VOLUME + '-clone'), as_then + '; echo > /root/other; sync', kill=True)
        opened = product.json('open', '%s@%s' % (VOLUME, between), '--rw')['uri']
        lab.boot('that instant, opened to write', opened, as_then + '; echo 3 > /root/third; sync', kill=True)
        lab.boot('what was written there', opened, 'grep -x 3 /root/third', kill=True)
        alone = 'test ! -e /root/first; test ! -e /root/other; test ! -e /root/third; grep -x 2 /root/second'
        lab.boot('the present', present, alone, kill=False)
    finally:
        product.stop()


def images(args, lab, work):
    disk = os.path.join(work, 'boot.raw')
    lab.run('boot-disk', disk, '--size', str(BOOT_MIB))
    product = Product(shlex.split(args.program), work)
    product.init()
    product.start()

    def uri(name):
        return product.json('vol', 'show', name)['uri']
    try:
        for form in ('qcow2', 'vhdx', 'vmdk'):
            path = os.path.join(work, 'boot.' + form)
            subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', form, disk, path], check=True)
            product.cli('image', 'adopt', path, form, '--format', form, '--fill', '--rate', '8M')
            lab.boot('%s, just adopted' % form, uri(form), 'echo %s > /root/first; sync' % form, kill=True)
            product.kill()
            product.start()
            lab.boot('%s, after a kill of the server in mid-fill' % form, uri(form), 'grep -x %s /root/first' % form, kill=False)
        os.unlink(disk)
        at = 'vmdk@seq:%d' % product.json('vol', 'show', 'vmdk@now')['seq']
        wrote = 'grep -x vmdk /root/first; echo 2 > /root/second; sync'
        for form in ('qcow2', 'vmdk'):
            out = os.path.join(work, 'exported.' + form)
            product.cli('image', 'export', at, out, '--to', form)
            lab.boot_file('an exported ' + form, out + ',format=' + form, wrote)
            os.unlink(out)
        virtual_files(lab, product, at, wrote)
    finally:
        product.stop()


def virtual_files(lab, product, at, script):
    folder = os.path.join(product.work, 'mounted')
    os.mkdir(folder)
    mounted = subprocess.Popen(product.program + ['-s', product.store, 'mount', at, folder], stdin=subprocess.DEVNULL,
                               env=product.environment)
    try:
        while not os.path.ismount(folder):
            if mounted.poll() is not None:
                raise Broken('mount ended with %d' % mounted.returncode)
            time.sleep(0.01)
        for form in ('qcow2', 'vmdk'):
            found = [os.path.join(root, 'disk.' + form) for root, _, files in os.walk(folder) if 'disk.' + form in files]
            over = os.path.join(product.work, 'over-%s.qcow2' % form)
            subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', found[0], '-F', form, over], check=True)
            lab.boot_file('an overlay over a virtual ' + form, over + ',format=qcow2', script)
    finally:
        mounted.terminate()
        mounted.wait(60)
    if mounted.returncode or os.path.ismount(folder):
        raise Broken('mount ended with %d' % mounted.returncode)


def digest_of(text):
    """The one digest that a guest printed."""
    found = re.findall(r'^DIGEST ([0-9a-f]{32})\b', text, re.MULTILINE)
    if len(set(found)) != 1:
        raise Broken('digests differ or are absent: %s\n%s' % (found, text[-2000:]))
    return found[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def kernel_nbd(args, lab, work):
    port = free_port()
    product = Product(shlex.split(args.program), work,
                      serve_arguments=['--nbd', '127.0.0.1:%d' % port, '--anyone', 'write'])
    product.init('--segment-size', '8M')
    product.cli('vol', 'create', VOLUME, '--size', '%dM' % args.megabytes)
    connect = 'nbd-client -N %s %s %d /dev/nbd0' % (VOLUME, GUEST_SEES_HOST_AS, port)
    digest = 'sync; blockdev --flushbufs /dev/nbd0; echo DIGEST $(md5sum < /dev/nbd0)'
    run = ['run', '--net', 'user', '--timeout', str(RUN_SECONDS), '--']
    first = '''set -e; modprobe nbd; %(connect)s; mkfs.ext4 -q /dev/nbd0; mount /dev/nbd0 /mnt
for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/f$i bs=1M count=%(each)d status=none; done
cd /mnt; md5sum f* > /tmp/sums; rm f3 f5 f6; grep -vE ' f(3|5|6)$' /tmp/sums > SUMS; sync; fstrim -v /mnt; cd /
umount /mnt; e2fsck -fn /dev/nbd0 || exit 9; %(digest)s; nbd-client -d /dev/nbd0
%(connect)s; %(digest)s; mount -o ro /dev/nbd0 /mnt; cd /mnt; md5sum -c SUMS; cd /; umount /mnt; nbd-client -d /dev/nbd0
''' % {'connect': connect, 'digest': digest, 'each': args.megabytes // 20}
    second = 'set -e; modprobe nbd; %s; e2fsck -fn /dev/nbd0 || exit 9; %s; nbd-client -d /dev/nbd0' % (connect, digest)
    product.start()
    try:
        print('guest: mkfs, write, trim, fsck, reconnect', flush=True)
        wrote = digest_of(lab.run(*run, first))
        copy = os.path.join(work, 'copy.raw')
        uri = 'nbd+unix:///%s?socket=%s' % (VOLUME, product.socket)
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, copy], check=True)
        with open(copy, 'rb') as file:
            read = hashlib.file_digest(file, 'md5').hexdigest()
        product.stop()
        product.start()
        print('guest: after a restart of the server', flush=True)
        again = digest_of(lab.run(*run, second))
    finally:
        product.stop()
    if not wrote == read == again:
        raise Broken('the guest that wrote saw %s, another client %s, the guest after a restart %s' % (wrote, read, again))
    print('one digest for all: ' + wrote)


SCENES = {'boots': boots, 'kernel-nbd': kernel_nbd, 'images': images}


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument('what', choices=tuple(SCENES))
    words.add_argument('--program', required=True)
    words.add_argument('--lab', required=True)
    words.add_argument('--megabytes', type=int, default=80)
    args = words.parse_args()
    work = tempfile.mkdtemp(prefix='strandline-guests-')
    try:
        SCENES[args.what](args, Lab(args.lab), work)
    except (Broken, CommandFailed, subprocess.CalledProcessError) as error:
        print('FAILED: %s' % error)
        return 1
    finally:
        shutil.rmtree(work)
    print('all held')
    return 0


if __name__ == '__main__':
    sys.exit(main())
