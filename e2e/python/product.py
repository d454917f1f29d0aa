"""The server under test: its store, its process and its command line.

`program` is a command (a list) with the grammar of strandline(1); the self-test puts a stand-in of
its own there. A server is waited for by connecting to its socket, and only ever stopped by its
process id. Everything lies in one work directory that the caller owns.
"""
import json
import os
import shlex
import signal
import socket
import subprocess
import time

START_SECONDS = 60


class CommandFailed(Exception):
    """A command of ours ended with another status than the caller expected."""

    def __init__(self, command, status, output, errors):
        super().__init__('%s ended with %d\n%s%s' % (shlex.join(command), status, output[-2000:], errors[-2000:]))
        self.status, self.output, self.errors = status, output, errors


class Product:
    def __init__(self, program, work, store=None, key=None, serve_arguments=()):
        self.program, self.work = list(program), work
        self.store = store or os.path.join(work, 'store')
        self.key = key or os.path.join(work, 'key')
        self.socket = os.path.join(work, 'nbd.sock')
        self.log_path = os.path.join(work, 'server.log')
        self.serve_arguments = list(serve_arguments)
        self.process = None
        self.environment = dict(os.environ, STRANDLINE_KEY_FILE=self.key)

    # command line

    def run(self, *arguments, ok=(0,)):
        """Standard output of one command; CommandFailed if its status is not in `ok`."""
        command = self.program + list(arguments)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=self.environment)
        if done.returncode not in ok:
            raise CommandFailed(command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def cli(self, *arguments, ok=(0,)):
        return self.run('-s', self.store, *arguments, ok=ok)

    def json(self, *arguments):
        return json.loads(self.cli(*arguments, '--json'))

    def json_lines(self, *arguments):
        return [json.loads(line) for line in self.cli(*arguments, '--json').splitlines() if line.strip()]

    def init(self, *arguments):
        return self.run('store', 'init', self.store, *arguments)

    # server

    def start(self):
        """Starts `serve` and returns once its socket takes connections."""
        command = self.program + ['-s', self.store, 'serve', '--nbd', 'unix:' + self.socket] + self.serve_arguments
        with open(self.log_path, 'ab') as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        end = time.monotonic() + START_SECONDS
        while not self._greets():
            if self.process.poll() is not None:
                raise CommandFailed(command, self.process.returncode, '', self.log_tail())
            if time.monotonic() > end:
                self.kill()
                raise CommandFailed(command, -1, 'no greeting for %d s\n' % START_SECONDS, self.log_tail())
            time.sleep(0.01)

    def _greets(self):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5)
                probe.connect(self.socket)
                return probe.recv(8) == b'NBDMAGIC'
        except OSError:
            return False

    def log_tail(self):
        with open(self.log_path, 'r', errors='replace') as log:
            return log.read()[-3000:]

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """A planned stop; raises if the server does not end with status 0."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(120)
        self.process = None
        if status != 0:
            raise CommandFailed(['serve'], status, '', self.log_tail())

    def kill(self):
        """SIGKILL; the time (ns) at which the process was surely gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        return time.time_ns()
