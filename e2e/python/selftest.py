#!/usr/bin/env python3
"""Has instants.py teeth? Runs it against the stand-in, right and with every bug of BUGS; a bug not found fails.

    selftest.py [--seed N] [BUG ...]
"""
import os
import subprocess
import sys
import time

from standin import BUGS

HERE = os.path.dirname(os.path.abspath(__file__))
PLAIN = ['--ops', '300', '--instants', '40', '--size', '2M', '--beside', '12', '--kill', '1']
REWIND = ['--rewind', '--ops', '300', '--instants', '30', '--size', '2M', '--rewinds', '3']
CLONES = ['--clones', '4', '--size', '2M']
MODES = {'': (PLAIN, REWIND, CLONES), 'leak': (CLONES,), 'future': (REWIND,)}


def run(mode, bug, seed):
    command = [sys.executable, os.path.join(HERE, 'instants.py'), '--seed', str(seed),
               '--program', sys.executable + ' ' + os.path.join(HERE, 'standin.py')] + mode
    return subprocess.run(command, env=dict(os.environ, STANDIN_BUG=bug), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


def main():
    words = sys.argv[1:]
    seed = 1
    if words[:1] == ['--seed']:
        seed, words = int(words[1]), words[2:]
    bad = 0
    for bug in words or [''] + list(BUGS):
        for mode in MODES.get(bug, (PLAIN,)):
            begin = time.monotonic()
            done = run(mode, bug, seed)
            right = done.returncode == (1 if bug else 0)
            bad += not right
            first = next((line for line in done.stdout.splitlines() if line.startswith('FAILED')), 'nothing found')
            print('%-4s %-8s %4.1f s  %s' % ('ok' if right else 'BAD', bug or 'none', time.monotonic() - begin, first[:150]))
            if not right:
                print(done.stdout[-3000:])
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
