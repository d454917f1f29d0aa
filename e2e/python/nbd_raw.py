"""An NBD client on a bare socket, for checks that must share no code with the server or with libnbd.

Fixed newstyle handshake, structured or simple replies, unix and TCP sockets. One `Link` is one
connection; any number of requests may be in flight on it. Nothing blocks in `submit`, `pump_out`
and `pump_in`, so one loop can drive many links; `wait` and what is built on it block.

Every request carries two stamps of the wall clock: `issue_ns`, taken before its first byte leaves,
and `ack_ns`, taken after its last byte of answer was read. What the server did lies between them.

Standard library only. Limits: no TLS, no metadata contexts, no extended headers.
"""
import os
import select
import socket
import struct
import time
from collections import deque
from urllib.parse import parse_qs, unquote, urlsplit

READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA, NO_HOLE = 1, 2
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_ZEROES, MULTI_CONN = 1, 2, 4, 8, 32, 64, 256

OPT_ABORT, OPT_LIST, OPT_GO, OPT_STRUCTURED = 2, 3, 7, 8
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
INFO_EXPORT, INFO_NAME, INFO_BLOCK_SIZE = 0, 1, 3

OPT_MAGIC, REP_MAGIC = 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
CHUNK_DONE, CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_ERROR, CHUNK_ERROR_AT = 1, 0, 1, 2, 0x8001, 0x8002

REQUEST = struct.Struct('>IHHQQI')
SIMPLE = struct.Struct('>IIQ')
CHUNK = struct.Struct('>IHHQI')


class NbdError(Exception):
    """The peer broke the protocol, refused an option, or went away."""


class Refused(NbdError):
    """The server answered an option with an error; `code` is the reply type, `text` what it said."""

    def __init__(self, code, text):
        super().__init__('option refused with 0x%08x: %s' % (code, text))
        self.code, self.text = code, text


class Request:
    """One command in flight or answered. `error` is the NBD errno, 0 for success."""
    __slots__ = ('cookie', 'command', 'offset', 'length', 'issue_ns', 'ack_ns', 'error', 'data', 'tag')

    def __init__(self, cookie, command, offset, length, tag):
        self.cookie, self.command, self.offset, self.length, self.tag = cookie, command, offset, length, tag
        self.issue_ns = self.ack_ns = None
        self.error = 0
        self.data = bytearray(length) if command == READ else None


def parse_uri(uri):
    """(address for `Link`, export name) of nbd+unix:///NAME?socket=PATH or nbd://HOST[:PORT]/NAME."""
    parts = urlsplit(uri)
    name = unquote(parts.path[1:])
    if parts.scheme == 'nbd+unix':
        return parse_qs(parts.query)['socket'][0], name
    if parts.scheme == 'nbd':
        return (parts.hostname, parts.port or 10809), name
    raise ValueError('not an NBD address: ' + uri)


class Link:
    """One connection to one export. `address` is a path (unix) or (host, port)."""

    def __init__(self, address, export='', structured=True, timeout=60):
        self.timeout = timeout
        if isinstance(address, tuple):
            self.sock = socket.create_connection(address, timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            try:
                self.sock.connect(address)
            except OSError:
                self.sock.close()
                raise
        self.pending, self.out, self.inbox, self.next_cookie = {}, deque(), bytearray(), 1
        self.size = self.flags = None
        self.fixed_name, self.block_sizes = None, None
        self.structured = False
        try:
            self._handshake(export, structured)
        except BaseException:
            self.sock.close()
            raise
        self.sock.setblocking(False)

    # handshake

    def _exactly(self, count):
        got = bytearray()
        while len(got) < count:
            piece = self.sock.recv(count - len(got))
            if not piece:
                raise NbdError('the server closed the connection during the handshake')
            got += piece
        return bytes(got)

    def _option(self, option, data=b''):
        self.sock.sendall(struct.pack('>QII', OPT_MAGIC, option, len(data)) + data)

    def _reply(self, option):
        magic, about, kind, length = struct.unpack('>QIII', self._exactly(20))
        data = self._exactly(length)
        if magic != REP_MAGIC or about != option:
            raise NbdError('an answer to option %d that is none' % option)
        return kind, data

    def _handshake(self, export, structured):
        first, second, flags = struct.unpack('>8s8sH', self._exactly(18))
        if first != b'NBDMAGIC' or second != b'IHAVEOPT' or not flags & 1:
            raise NbdError('no fixed newstyle server')
        self.sock.sendall(struct.pack('>I', flags & 3))
        if structured:
            self._option(OPT_STRUCTURED)
            self.structured = self._reply(OPT_STRUCTURED)[0] == REP_ACK
        name = export.encode()
        self._option(OPT_GO, struct.pack('>I', len(name)) + name + struct.pack('>HHH', 2, INFO_NAME, INFO_BLOCK_SIZE))
        while True:
            kind, data = self._reply(OPT_GO)
            if kind == REP_ACK:
                break
            if kind & 0x80000000:
                raise Refused(kind, data.decode('utf-8', 'replace'))
            if kind != REP_INFO:
                raise NbdError('reply type %d to NBD_OPT_GO' % kind)
            info, = struct.unpack_from('>H', data)
            if info == INFO_EXPORT:
                self.size, self.flags = struct.unpack_from('>QH', data, 2)
            elif info == INFO_NAME:
                self.fixed_name = data[2:].decode()
            elif info == INFO_BLOCK_SIZE:
                self.block_sizes = struct.unpack_from('>III', data, 2)
        if self.size is None:
            raise NbdError('NBD_OPT_GO without NBD_INFO_EXPORT')

    # requests without blocking

    def submit(self, command, offset=0, length=0, data=b'', flags=0, tag=None):
        """Queues one request and stamps its issue; `pump_out` sends."""
        request = Request(self.next_cookie, command, offset, length or len(data), tag)
        self.next_cookie += 1
        request.issue_ns = time.time_ns()
        self.out.append(memoryview(REQUEST.pack(REQUEST_MAGIC, flags, command, request.cookie, offset, request.length)))
        if data:
            self.out.append(memoryview(data))
        self.pending[request.cookie] = request
        return request

    def pump_out(self):
        """Sends what the socket takes. True while something is left."""
        while self.out:
            try:
                sent = self.sock.send(self.out[0])
            except BlockingIOError:
                return True
            if sent == len(self.out[0]):
                self.out.popleft()
            else:
                self.out[0] = self.out[0][sent:]
        return False

    def pump_in(self):
        """Reads what has arrived; the requests it completes."""
        try:
            piece = self.sock.recv(1 << 20)
        except BlockingIOError:
            return []
        if not piece:
            raise NbdError('the server closed the connection with %d requests in flight' % len(self.pending))
        self.inbox += piece
        done, at = [], 0
        while True:
            used, request = self._one_reply(at)
            if not used:
                break
            at += used
            if request:
                request.ack_ns = time.time_ns()
                del self.pending[request.cookie]
                done.append(request)
        del self.inbox[:at]
        return done

    def _find(self, cookie):
        request = self.pending.get(cookie)
        if request is None:
            raise NbdError('an answer with cookie %d, which is not in flight' % cookie)
        return request

    def _one_reply(self, at):
        """(bytes used, request completed or None); 0 bytes when the reply is not all there."""
        have = len(self.inbox) - at
        if have < 4:
            return 0, None
        magic, = struct.unpack_from('>I', self.inbox, at)
        if magic == SIMPLE_MAGIC:
            if have < SIMPLE.size:
                return 0, None
            _, error, cookie = SIMPLE.unpack_from(self.inbox, at)
            request = self._find(cookie)
            payload = request.length if request.command == READ and not error else 0
            if have < SIMPLE.size + payload:
                return 0, None
            if payload:
                request.data[:] = self.inbox[at + SIMPLE.size:at + SIMPLE.size + payload]
            request.error = error
            return SIMPLE.size + payload, request
        if magic != CHUNK_MAGIC or not self.structured:
            raise NbdError('reply magic 0x%08x' % magic)
        if have < CHUNK.size:
            return 0, None
        _, flags, kind, cookie, length = CHUNK.unpack_from(self.inbox, at)
        if have < CHUNK.size + length:
            return 0, None
        body = at + CHUNK.size
        request = self._find(cookie)
        if kind == CHUNK_DATA or kind == CHUNK_HOLE:
            offset, = struct.unpack_from('>Q', self.inbox, body)
            begin = offset - request.offset
            count = length - 8 if kind == CHUNK_DATA else struct.unpack_from('>I', self.inbox, body + 8)[0]
            if request.command != READ or begin < 0 or begin + count > request.length:
                raise NbdError('a chunk outside its request')
            data = self.inbox[body + 8:body + length] if kind == CHUNK_DATA else bytes(count)
            request.data[begin:begin + count] = data
        elif kind & 0x8000:
            request.error, = struct.unpack_from('>I', self.inbox, body)
        elif kind != CHUNK_NONE:
            raise NbdError('chunk type %d' % kind)
        return CHUNK.size + length, request if flags & CHUNK_DONE else None

    # requests that block

    def wait(self, request):
        """Drives the link until `request` is answered."""
        while request.ack_ns is None:
            left = self.pump_out()
            ready = select.select([self.sock], [self.sock] if left else [], [], self.timeout)
            if not ready[0] and not ready[1]:
                raise NbdError('no answer for %d s' % self.timeout)
            if ready[0]:
                self.pump_in()
        return request

    def call(self, command, offset=0, length=0, data=b'', flags=0):
        """Submits, waits, and raises OSError with the server's errno if it failed."""
        request = self.wait(self.submit(command, offset, length, data, flags))
        if request.error:
            raise OSError(request.error, os.strerror(request.error))
        return request

    def read(self, offset, length):
        return bytes(self.call(READ, offset, length).data)

    def write(self, offset, data, fua=False):
        return self.call(WRITE, offset, data=data, flags=FUA if fua else 0)

    def flush(self):
        return self.call(FLUSH)

    def read_all(self, piece=1 << 20, depth=8):
        """The whole export; raises OSError if any piece cannot be read."""
        image, queue, at = bytearray(self.size), deque(), 0
        while at < self.size or queue:
            while at < self.size and len(queue) < depth:
                queue.append(self.submit(READ, at, min(piece, self.size - at)))
                at += queue[-1].length
            request = self.wait(queue.popleft())
            if request.error:
                raise OSError(request.error, 'read of %d bytes at %d' % (request.length, request.offset))
            image[request.offset:request.offset + request.length] = request.data
        return image

    def close(self):
        """A clean end: NBD_CMD_DISC, then the socket. What is in flight is not waited for."""
        try:
            self.sock.settimeout(self.timeout)
            while self.out:
                self.sock.sendall(self.out.popleft())
            self.sock.sendall(REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(1 << 16):
                pass
        except OSError:
            pass
        self.sock.close()

    def drop(self):
        """Cuts the connection without a word."""
        self.sock.close()
