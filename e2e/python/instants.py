#!/usr/bin/env python3
"""Do past instants read as they were? A seeded run, then random instants of it against a model.

    instants.py --program 'strandline' [--instants 200] [--ops 6000] [--kill 2] [--seed N] ...
    instants.py --program 'strandline' --rewind          write, rewind, write, rewind: 50 instants in all stretches
    instants.py --program 'strandline' --clones 16       clones of clones stay independent

The default run writes over 4 connections while it opens relative instants (`vol@-250ms`), makes marks
and, with --kill N, kills the server N times under load. Then it opens instants by time (to the
nanosecond, also exactly at issue and acknowledgement), by sequence and by mark, compares every byte
with `history_model.py`, and does so again after each stage of --stages: live, gc (packing and merging
done now), restart (clean), kill (SIGKILL). What is proved and how: head of history_model.py.

Exit: 0 all instants equal the model, 1 one does not, 2 usage.
"""
import argparse
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time

import nbd_raw
from history_model import History, Violation, sequence_of, to_text
from load import Load
from product import CommandFailed, Product

VOLUME = 'vol'


def parse_size(text):
    found = re.fullmatch(r'(\d+)([KMG]?)', text)
    if not found:
        raise argparse.ArgumentTypeError('not a size: ' + text)
    return int(found[1]) << {'': 0, 'K': 10, 'M': 20, 'G': 30}[found[2]]


class Probe:
    """One instant: its export name, the span of time it stands for (or its exact sequence)."""

    def __init__(self, name, from_ns=None, to_ns=None, seq=None):
        self.name, self.from_ns, self.to_ns, self.seq = name, from_ns, to_ns, seq
        self.path = None  # where its bytes were kept, if they were read during the load


class Beside(threading.Thread):
    """Opens relative instants and makes marks while the load runs, on connections of its own."""

    def __init__(self, product, seed, limit, work):
        super().__init__(name='beside')
        self.product, self.random, self.limit, self.work = product, random.Random(seed ^ 0xBE51DE), limit, work
        self.begin_ns = time.time_ns()
        self.probes, self.marks, self.failure = [], [], None
        self.ended = threading.Event()
        self.calm = threading.Lock()  # held by whoever must not be disturbed by a kill of the server

    def run(self):
        try:
            while not self.ended.wait(self.random.uniform(0.01, 0.1)) and len(self.probes) + len(self.marks) < self.limit:
                with self.calm:
                    self.mark() if self.random.random() < 0.4 else self.relative()
        except Exception as failure:  # handed to the main thread, which raises it
            self.failure = failure

    def relative(self):
        back_ms = self.random.randint(0, max(1, (time.time_ns() - self.begin_ns) // 10**6))
        name = '%s@-%dms' % (VOLUME, back_ms)
        before = time.time_ns()
        link = nbd_raw.Link(self.product.socket, name)
        after = time.time_ns()
        probe = Probe(name, before - back_ms * 10**6, after - back_ms * 10**6, sequence_of(link.fixed_name))
        if link.flags & nbd_raw.MULTI_CONN:
            raise Violation('%s moves, yet it offers multi-connection' % name)
        if not link.flags & nbd_raw.READ_ONLY:
            raise Violation('%s is not read-only' % name)
        probe.path = os.path.join(self.work, 'probe.%d' % len(self.probes))
        with open(probe.path, 'wb') as kept:
            kept.write(link.read_all())
        link.close()
        self.probes.append(probe)

    def mark(self):
        label = 'm%d' % len(self.marks)
        before = time.time_ns()
        made = self.product.json('mark', 'add', VOLUME, label)
        self.marks.append(Probe('%s@mark:%s' % (VOLUME, label), before, time.time_ns(), made['seq']))


def write_under_load(args, product, load, beside):
    """The load, with kills at random places of it."""
    pick = random.Random(args.seed ^ 0xDEAD)
    stops = sorted(pick.randrange(1, args.ops) for _ in range(args.kill))
    done = 0
    for stop in stops:
        load.connect(product.socket, VOLUME)
        load.run(stop - done)
        cut = pick.randrange(20, 80)
        load.run(cut + 1, during=lambda n: n == cut)  # left in the middle, with requests in flight
        with beside.calm:
            load.lost(product.kill())
            product.start()
        done = stop
    load.connect(product.socket, VOLUME)
    load.run(args.ops - done)
    load.disconnect()


def check_probes(stage, product, history, probes):
    """Opens each probe, learns its sequence, checks its bounds and then its bytes, in rising order."""
    opened = []
    for probe in probes:
        link = nbd_raw.Link(product.socket, probe.name)
        seq = sequence_of(link.fixed_name)
        what = '%s (stage %s)' % (probe.name, stage)
        if not link.flags & nbd_raw.READ_ONLY:
            raise Violation('%s is not read-only' % what)
        if probe.seq is not None and seq != probe.seq:
            raise Violation('%s answers seq %d, it was %d' % (what, seq, probe.seq))
        if probe.from_ns is not None:
            history.check_bounds(what, seq, probe.from_ns, probe.to_ns)
        link.close()
        opened.append((seq, probe))
    opened.sort(key=lambda pair: pair[0])
    states = history.replay([seq for seq, _ in opened])
    at, state = None, None
    for seq, probe in opened:
        if seq != at:
            at, state = next(states)
        link = nbd_raw.Link(product.socket, probe.name)
        got = link.read_all()
        link.close()
        if got != state:
            raise Violation('%s (stage %s): %s' % (probe.name, stage, history.explain(state, got, seq)))


def check_kept(history, probes):
    """The same for bytes that were read while the load ran."""
    probes = sorted(probes, key=lambda probe: probe.seq)
    for probe in probes:
        history.check_bounds(probe.name, probe.seq, probe.from_ns, probe.to_ns)
    states = history.replay([probe.seq for probe in probes])
    at, state = None, None
    for probe in probes:
        if probe.seq != at:
            at, state = next(states)
        with open(probe.path, 'rb') as kept:
            got = kept.read()
        if got != state:
            raise Violation('%s, read under load: %s' % (probe.name, history.explain(state, got, probe.seq)))


def choose(pick, history, count, stretches=None):
    """`count` probes by sequence and by time, spread over all stretches."""
    stretches = stretches or [history.ops]
    probes = []
    for number in range(count):
        ops = stretches[number % len(stretches)]
        ops = ops[:-1] if len(stretches) > 1 and len(ops) > 1 else ops  # a stretch's end is also its rewind's begin
        if number // len(stretches) % 3 == 0:
            seq = pick.choice(ops).seq
            probes.append(Probe('%s@seq:%d' % (VOLUME, seq), seq=seq))
            continue
        answered = [op for op in ops if op.ack_ns is not None]
        begin = answered[0].ack_ns
        if number % 3 == 1:
            op = pick.choice(answered)
            near = pick.choice((op.issue_ns, op.ack_ns)) + pick.choice((-1, 0, 1))
        else:
            near = pick.randint(begin, answered[-1].ack_ns)
        at = max(begin, near)
        probes.append(Probe('%s@%s' % (VOLUME, to_text(at)), at, at))
    return probes


def log_of(product, references):
    entries = []
    for reference in references:
        entries += product.json_lines('log', reference, '--by', 'write')
    return entries


def stage_of(stage, product, args):
    if stage == 'restart':
        product.stop()
        product.start()
    elif stage == 'kill':
        product.kill()
        product.start()
    elif stage == 'gc':
        product.cli(*shlex.split(args.gc))


def plain(args, product, work):
    load = Load(args.seed, args.size, args.links, args.depth)
    beside = Beside(product, args.seed, args.beside, work)
    beside.start()
    try:
        write_under_load(args, product, load, beside)
    finally:
        beside.ended.set()
        beside.join()
    if beside.failure:
        raise beside.failure
    history = History(args.size)
    history.witness(load.ops, log_of(product, [VOLUME]))
    check_kept(history, beside.probes)
    print('%d operations, %d flushes, %d kills under load; %d instants and %d marks made beside it: right' % (
        len(load.ops), load.flushes, args.kill, len(beside.probes), len(beside.marks)), flush=True)
    pick = random.Random(args.seed ^ 0x1257)
    marks = beside.marks[:args.instants // 4]
    probes = choose(pick, history, args.instants - len(marks)) + marks
    for stage in args.stages.split(','):
        stage_of(stage, product, args)
        check_probes(stage, product, history, probes)
        history.witness(load.ops, log_of(product, [VOLUME]))
        print('stage %-8s %d instants equal the model, %d of them marks; the log is the same' % (stage, len(probes), len(marks)),
              flush=True)
    return len(probes) + len(beside.probes)


def rewinding(args, product, work):
    """Write, rewind, write, rewind: the past of every stretch, also of those left, stays as it was."""
    load = Load(args.seed, args.size, args.links, args.depth)
    pick = random.Random(args.seed ^ 0x4E817D)
    history, kept, ends = History(args.size), [], []
    each = max(50, args.ops // (args.rewinds + 1))
    for stretch in range(args.rewinds + 1):
        load.connect(product.socket, VOLUME)
        load.run(each)
        load.disconnect()
        history.witness(load.ops, log_of(product, [VOLUME] + kept))
        ends.append(history.ops[-1].seq)
        if stretch == args.rewinds:
            break
        target = pick.choice(history.sequences[-each:-1])  # in the present stretch: no choice of a branch is needed
        answer = product.json('-y', 'rewind', '%s@seq:%d' % (VOLUME, target))
        branch = answer['kept']
        kept.append(branch if branch.startswith(VOLUME) else '%s~%s' % (VOLUME, branch))
        history.rewinds.append((ends[-1], target))
    stretches, begin = [], 0
    for end in ends:
        stretches.append([op for op in history.ops if begin < op.seq <= end])
        begin = end
    probes = choose(pick, history, args.instants, stretches)
    probes += [Probe('%s@now' % branch, seq=end) for branch, end in zip(kept, ends)]
    for stage in args.stages.split(','):
        stage_of(stage, product, args)
        check_probes(stage, product, history, probes)
        (_, state), = history.replay([ends[-1]])
        link = nbd_raw.Link(product.socket, VOLUME)
        if link.read_all() != state:
            raise Violation('the present differs from its model after stage %s' % stage)
        link.close()
        print('stage %-8s %d instants in %d stretches equal the model' % (stage, len(probes), len(stretches)), flush=True)
    return len(probes)


def cloning(args, product, _work):
    """A chain of clones, each written to; then every one of them, and its fork, against its own model."""
    pick = random.Random(args.seed ^ 0xC10E)
    models, forks = {VOLUME: bytearray(args.size)}, {}

    def scribble(name, count):
        link = nbd_raw.Link(product.socket, name)
        for _ in range(count):
            length = pick.randint(1, 65536)
            offset = pick.randrange(args.size - length)
            data = pick.randbytes(length)
            link.write(offset, data)
            models[name][offset:offset + length] = data
        link.flush()
        link.close()

    scribble(VOLUME, 60)
    parent = VOLUME
    for depth in range(1, args.clones + 1):
        name = 'clone%d' % depth
        seq = product.json('mark', 'add', parent, 'fork%d' % depth)['seq']
        forks[name] = (parent, seq, bytes(models[parent]))
        scribble(parent, 8)  # after the fork: must not show in the clone
        product.cli('clone', '%s@seq:%d' % (parent, seq), name)
        models[name] = bytearray(forks[name][2])
        scribble(name, 20)
        parent = name
    for name in list(models):
        scribble(name, 5)
    checked = 0
    for stage in args.stages.split(','):
        stage_of(stage, product, args)
        for name, model in models.items():
            names = [(name, model)]
            if name in forks:
                names += [('%s@seq:%d' % (forks[name][0], forks[name][1]), forks[name][2]), (name + '@start', forks[name][2])]
            for reference, wanted in names:
                link = nbd_raw.Link(product.socket, reference)
                if link.read_all() != wanted:
                    raise Violation('%s differs from its model (stage %s)' % (reference, stage))
                link.close()
                checked += 1
        print('stage %-8s %d volumes to clone depth %d, their forks and starts equal their models' % (
            stage, len(models), args.clones), flush=True)
    return checked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--program', required=True, help='command with the grammar of strandline(1)')
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--instants', type=int, default=None, help='default 200, with --rewind 50')
    parser.add_argument('--ops', type=int, default=6000)
    parser.add_argument('--size', type=parse_size, default=16 << 20)
    parser.add_argument('--links', type=int, default=4)
    parser.add_argument('--depth', type=int, default=8, help='requests in flight on each link')
    parser.add_argument('--kill', type=int, default=0, help='kills of the server under load')
    parser.add_argument('--beside', type=int, default=40, help='most instants and marks made during the load')
    parser.add_argument('--rewind', action='store_true')
    parser.add_argument('--rewinds', type=int, default=4)
    parser.add_argument('--clones', type=int, default=0, metavar='DEPTH')
    parser.add_argument('--stages', default='live,gc,restart,kill')
    parser.add_argument('--gc', default='-y store gc --now', help='command of the stage gc')
    parser.add_argument('--init', default='--segment-size 8M', help='more arguments of `store init`')
    parser.add_argument('--serve', default='', help='more arguments of `serve`')
    parser.add_argument('--work', help='keep everything there (default: a temporary directory, removed)')
    args = parser.parse_args()
    args.seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), 'big')
    args.instants = args.instants or (50 if args.rewind else 200)
    print('seed %d' % args.seed, flush=True)
    work = args.work or tempfile.mkdtemp(prefix='instants-')
    os.makedirs(work, exist_ok=True)
    product = Product(shlex.split(args.program), work, serve_arguments=shlex.split(args.serve))
    begin = time.monotonic()
    try:
        product.init(*shlex.split(args.init))
        product.cli('vol', 'create', VOLUME, '--size', str(args.size))
        product.start()
        mode = rewinding if args.rewind else cloning if args.clones else plain
        checked = mode(args, product, work)
        product.stop()
    except (Violation, CommandFailed, nbd_raw.NbdError, OSError) as failure:
        tail = product.log_tail() if os.path.exists(product.log_path) else ''
        print('FAILED: %s\nrepeat with: %s --seed %d\n%s' % (failure, shlex.join(sys.argv), args.seed, tail), flush=True)
        return 1
    finally:
        product.kill()
        if not args.work:
            shutil.rmtree(work, ignore_errors=True)
    print('%d instants right in %.1f s' % (checked, time.monotonic() - begin))
    return 0


if __name__ == '__main__':
    sys.exit(main())
