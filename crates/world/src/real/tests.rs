//! The contract of a ring, run over both kinds of it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Builder,
};

use super::*;
use crate::{Access, Disk, File, Page, Socket, ring::Peer};

/// One test per law and ring.
macro_rules! for_both_rings {
    ($($law:ident),* $(,)?) => {
        mod io_uring {
            use super::*;
            $(#[test] fn $law() {
                // Without io_uring here only the other half can say anything.
                if let Ok((mut ring, _)) = open_ring(RingChoice::Uring) { super::$law(&mut *ring); }
            })*
        }
        mod threads {
            use super::*;
            $(#[test] fn $law() {
                let (mut ring, name) = open_ring(RingChoice::Threads).expect("opens");
                assert_eq!(name, "threads");
                super::$law(&mut *ring);
            })*
        }
    };
}

for_both_rings![
    files_are_written_synced_and_read,
    a_read_ends_short_at_the_end,
    errors_give_the_page_back,
    many_operations_all_come_back,
    an_accepted_peer_is_named,
    bytes_pass_between_sockets,
    receives_and_sends_wait_for_the_peer,
    a_gone_peer_ends_all,
    a_shut_down_socket_ends_its_receive,
    an_early_call_is_not_lost,
    a_call_from_another_thread_ends_the_wait,
    time_limits_the_wait,
    direct_pages_reach_the_disk,
];

const PAGE: usize = 4096;

fn page() -> Page {
    Pool::new(1).take(PAGE).expect("a page")
}

fn text(parts: &[&str]) -> Vec<Bytes> {
    parts.iter().map(|part| Bytes::from(part.as_bytes().to_vec())).collect()
}

fn file() -> File {
    RealFile::adopt(memfd_create("test", MemfdFlags::CLOEXEC).expect("a file in memory"))
}

fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    (RealSocket::adopt(ours.into()), theirs)
}

/// Turns until so many have ended.
fn wait(ring: &mut dyn Ring, count: usize) -> Vec<Done> {
    let mut done = Vec::new();
    while done.len() < count {
        ring.turn(Wait::Forever, &mut done).expect("turns");
    }
    assert_eq!(done.len(), count);
    done
}

fn moved(done: &Done) -> usize {
    bytes(done).unwrap_or_else(|_| panic!("{done:?}"))
}

fn receive(socket: &Socket) -> Op {
    Op::Receive { socket: socket.clone(), page: page(), from: 0, length_bytes: PAGE, whole: false }
}

fn files_are_written_synced_and_read(ring: &mut dyn Ring) {
    let file = file();
    let parts = text(&["one", "", "two", "three"]);
    ring.push(Token(1), Op::Write { file: file.clone(), offset_bytes: 5, parts });
    assert_eq!(ring.in_flight(), 1);
    let done = wait(ring, 1);
    assert_eq!((done[0].token, moved(&done[0])), (Token(1), 11));
    assert_eq!(ring.in_flight(), 0);
    ring.push(Token(2), Op::Write { file: file.clone(), offset_bytes: 0, parts: text(&["zero!"]) });
    assert_eq!(moved(&wait(ring, 1)[0]), 5);
    ring.push(Token(3), Op::Sync { file: file.clone() });
    assert_eq!(moved(&wait(ring, 1)[0]), 0);
    ring.push(Token(4), Op::Write { file: file.clone(), offset_bytes: 0, parts: Vec::new() });
    assert_eq!(moved(&wait(ring, 1)[0]), 0);
    ring.push(Token(5), Op::Read { file, offset_bytes: 0, page: page(), length_bytes: 16 });
    let done = wait(ring, 1).remove(0);
    assert_eq!(moved(&done), 16);
    assert_eq!(&done.page.expect("comes back")[..16], b"zero!onetwothree");
}

fn a_read_ends_short_at_the_end(ring: &mut dyn Ring) {
    let file = file();
    file.write_at(0, b"abc").expect("written");
    for (offset_bytes, expected) in [(0, 3), (2, 1), (3, 0), (1 << 40, 0)] {
        let file = file.clone();
        ring.push(Token(0), Op::Read { file, offset_bytes, page: page(), length_bytes: PAGE });
        assert_eq!(moved(&wait(ring, 1)[0]), expected);
    }
}

fn errors_give_the_page_back(ring: &mut dyn Ring) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(dir.path()).expect("opens");
    disk.open("a", Access::WRITE.new_file()).expect("made");
    let file = disk.open("a", Access::READ).expect("opens");
    ring.push(Token(1), Op::Write { file: file.clone(), offset_bytes: 0, parts: text(&["x"]) });
    let error = wait(ring, 1).remove(0).result.expect_err("opened for reading");
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    let offset_bytes = 1 << 63; // negative for the kernel, and not "where the file stands"
    ring.push(Token(2), Op::Read { file, offset_bytes, page: page(), length_bytes: 1 });
    let done = wait(ring, 1).remove(0);
    assert!(done.result.is_err() && done.page.is_some(), "{done:?}");
}

fn many_operations_all_come_back(ring: &mut dyn Ring) {
    const COUNT: u64 = 6000; // more than the kernel's queues hold
    let file = file();
    for number in 0..COUNT {
        let parts = vec![Bytes::from(number.to_le_bytes().to_vec())];
        ring.push(Token(number), Op::Write { file: file.clone(), offset_bytes: number * 8, parts });
    }
    let (socket, mut theirs) = pair();
    for number in 0..COUNT {
        let parts = vec![Bytes::from(vec![number.to_le_bytes()[0]])];
        ring.push(Token(COUNT + number), Op::Send { socket: socket.clone(), parts });
        if number % 64 == 0 {
            ring.turn(Wait::No, &mut Vec::new()).expect("turns");
        }
    }
    // What those turns gave is dropped; the rest comes as the peer reads.
    let reader = Builder::new()
        .spawn(move || {
            let mut all = vec![0; 6000];
            theirs.read_exact(&mut all).expect("all arrive");
            all
        })
        .expect("a thread");
    while ring.in_flight() > 0 {
        ring.turn(Wait::Forever, &mut Vec::new()).expect("turns");
    }
    assert_eq!(reader.join().expect("read").len(), 6000);
    let mut all = vec![0; 48_000];
    file.read_at(0, &mut all).expect("written in full");
    let numbers = all.chunks(8).map(|it| u64::from_le_bytes(it.try_into().expect("8 bytes")));
    assert!(numbers.eq(0..COUNT));
}

fn an_accepted_peer_is_named(ring: &mut dyn Ring) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = listen_unix(&path, None).expect("listens").into_listener();
    ring.push(Token(1), Op::Accept { listener });
    ring.turn(Wait::No, &mut Vec::new()).expect("turns");
    let _client = connect_unix(&path, None).expect("connects");
    let done = wait(ring, 1).remove(0);
    let Ok(Finished::Socket(socket)) = done.result else { panic!("{done:?}") };
    let pid = i32::try_from(std::process::id()).expect("a pid");
    assert!(matches!(socket.0.peer(), Peer::Process { pid: found, .. } if found == pid));

    let listener = listen_tcp("127.0.0.1:0".parse().expect("an address")).expect("listens");
    let &ListenAddress::Tcp(address) = listener.address() else { panic!("{listener:?}") };
    let mut client = TcpStream::connect(address).expect("connects");
    ring.push(Token(2), Op::Accept { listener: listener.into_listener() });
    let done = wait(ring, 1).remove(0);
    let Ok(Finished::Socket(socket)) = done.result else { panic!("{done:?}") };
    assert_eq!(socket.0.peer(), Peer::Address(client.local_addr().expect("an address")));
    client.write_all(b"hello").expect("sent");
    ring.push(Token(3), receive(&socket));
    assert_eq!(moved(&wait(ring, 1)[0]), 5);
}

fn bytes_pass_between_sockets(ring: &mut dyn Ring) {
    let (socket, mut theirs) = pair();
    ring.push(Token(1), Op::Send { socket: socket.clone(), parts: text(&["ab", "cde"]) });
    assert_eq!(moved(&wait(ring, 1)[0]), 5);
    ring.push(Token(2), Op::Send { socket: socket.clone(), parts: text(&["f"]) });
    assert_eq!(moved(&wait(ring, 1)[0]), 1);
    let mut heard = [0; 6];
    theirs.read_exact(&mut heard).expect("arrives");
    assert_eq!(&heard, b"abcdef");

    theirs.write_all(b"123456").expect("sent");
    let mut page = page();
    page.fill(b'.');
    ring.push(
        Token(3),
        Op::Receive { socket: socket.clone(), page, from: 2, length_bytes: 4, whole: false },
    );
    let done = wait(ring, 1).remove(0);
    assert_eq!(moved(&done), 4);
    assert_eq!(&done.page.expect("comes back")[..8], b"..1234..");
    ring.push(Token(4), receive(&socket));
    assert_eq!(moved(&wait(ring, 1)[0]), 2, "what is there, not more");
}

fn receives_and_sends_wait_for_the_peer(ring: &mut dyn Ring) {
    const LENGTH: usize = 1 << 20; // more than a socket's buffers take
    let (socket, mut theirs) = pair();
    ring.push(Token(1), receive(&socket));
    let mut rest = vec![Bytes::zeros(LENGTH / 2), Bytes::zeros(LENGTH / 2)];
    ring.push(Token(2), Op::Send { socket: socket.clone(), parts: rest.clone() });
    let mut done = Vec::new();
    ring.turn(Wait::No, &mut done).expect("turns");
    assert_eq!(ring.in_flight(), 2 - done.len());
    let peer = Builder::new()
        .spawn(move || {
            let mut all = vec![1; LENGTH];
            theirs.read_exact(&mut all).expect("all arrive");
            theirs.write_all(b"thanks").expect("sent");
            assert!(all.iter().all(|&byte| byte == 0));
            theirs
        })
        .expect("a thread");
    let mut sent = 0;
    let mut thanked = false;
    while sent < LENGTH || !thanked {
        if done.is_empty() {
            ring.turn(Wait::Forever, &mut done).expect("turns");
        }
        for end in std::mem::take(&mut done) {
            if end.token == Token(1) {
                assert_eq!(moved(&end), 6);
                thanked = true;
                continue;
            }
            sent += moved(&end);
            if sent < LENGTH {
                rest = vec![Bytes::zeros(LENGTH - sent)];
                ring.push(Token(2), Op::Send { socket: socket.clone(), parts: rest.clone() });
            }
        }
    }
    assert_eq!(sent, LENGTH);
    peer.join().expect("the peer was content");
}

fn a_gone_peer_ends_all(ring: &mut dyn Ring) {
    let (socket, theirs) = pair();
    ring.push(Token(1), receive(&socket));
    ring.turn(Wait::No, &mut Vec::new()).expect("turns");
    drop(theirs);
    assert_eq!(moved(&wait(ring, 1)[0]), 0);
    // And no SIGPIPE.
    ring.push(Token(2), Op::Send { socket: socket.clone(), parts: text(&["x"]) });
    let error = wait(ring, 1).remove(0).result.expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    ring.push(Token(3), Op::Send { socket, parts: text(&["x", "y"]) });
    let error = wait(ring, 1).remove(0).result.expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

fn a_shut_down_socket_ends_its_receive(ring: &mut dyn Ring) {
    let (socket, _theirs) = pair();
    ring.push(Token(1), receive(&socket));
    ring.push(Token(2), Op::Send { socket: socket.clone(), parts: vec![Bytes::zeros(2 << 20)] });
    let mut done = Vec::new();
    ring.turn(Wait::No, &mut done).expect("turns");
    socket.0.shut_down();
    while done.len() < 2 {
        ring.turn(Wait::Forever, &mut done).expect("turns");
    }
    let receive = done.iter().find(|done| done.token == Token(1)).expect("ended");
    assert!(receive.page.is_some());
    assert!(matches!(receive.result, Ok(Finished::Bytes(0)) | Err(_)), "{receive:?}");
    let send = done.iter().find(|done| done.token == Token(2)).expect("ended");
    assert!(!matches!(send.result, Ok(Finished::Bytes(0x20_0000))), "{send:?}");
}

fn an_early_call_is_not_lost(ring: &mut dyn Ring) {
    for _ in 0..3 {
        let waker = ring.waker();
        waker.wake();
        waker.wake();
        ring.turn(Wait::Forever, &mut Vec::new()).expect("turns");
    }
}

fn a_call_from_another_thread_ends_the_wait(ring: &mut dyn Ring) {
    for _ in 0..1000 {
        let (waker, left) = (ring.waker(), Arc::new(AtomicBool::new(false)));
        let leave = Arc::clone(&left);
        let caller = Builder::new()
            .spawn(move || {
                leave.store(true, Ordering::Relaxed);
                waker.wake();
            })
            .expect("a thread");
        while !left.load(Ordering::Relaxed) {
            ring.turn(Wait::Forever, &mut Vec::new()).expect("turns");
        }
        caller.join().expect("called");
    }
}

fn time_limits_the_wait(ring: &mut dyn Ring) {
    use crate::Clock as _;
    let (socket, _theirs) = pair();
    ring.push(Token(1), receive(&socket));
    ring.turn(Wait::No, &mut Vec::new()).expect("turns");
    let before = RealClock.boot_ns();
    let mut done = Vec::new();
    ring.turn(Wait::Ns(20_000_000), &mut done).expect("turns");
    assert!(done.is_empty() && ring.in_flight() == 1);
    assert!(RealClock.boot_ns() - before >= 19_000_000, "waited");
}

fn direct_pages_reach_the_disk(ring: &mut dyn Ring) {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory on a disk");
    let disk = RealDisk::open(dir.path()).expect("opens");
    let file = disk.open("a", Access::WRITE_DIRECT.new_file()).expect("made");
    file.allocate(1 << 20).expect("allocated");
    let pool = Pool::new(8 << 20); // room for each size
    for number in 0..16_u8 {
        let mut page = pool.take(PAGE).expect("a page");
        page.fill(number);
        let bytes = page.freeze();
        let parts = vec![bytes.slice(0..PAGE / 2), bytes.slice(PAGE / 2..PAGE)];
        let offset_bytes = u64::from(number) * PAGE as u64;
        ring.push(Token(number.into()), Op::Write { file: file.clone(), offset_bytes, parts });
    }
    assert!(wait(ring, 16).iter().all(|done| moved(done) == PAGE));
    ring.push(Token(0), Op::Sync { file: file.clone() });
    wait(ring, 1);
    let mut all = pool.take(16 * PAGE).expect("a page");
    file.read_at(0, &mut all).expect("read");
    assert!(all.chunks(PAGE).zip(0..).all(|(chunk, number)| chunk.iter().all(|&it| it == number)));
    assert_eq!(pool.used_bytes(), 16 * PAGE, "the ring holds nothing back");
}

#[test]
fn a_dropped_ring_lets_go_of_everything() {
    for choice in [RingChoice::Auto, RingChoice::Threads] {
        let (mut ring, _) = open_ring(choice).expect("opens");
        let pool = Pool::new(8 << 20); // room for each size
        let dir = tempfile::tempdir().expect("a directory");
        let listener = listen_unix(&dir.path().join("s"), None).expect("listens").into_listener();
        let (socket, mut theirs) = pair();
        let mut sockets = Vec::new();
        for round in 0..2 {
            ring.push(Token(0), Op::Accept { listener: listener.clone() });
            let page = pool.take(PAGE).expect("a page");
            let socket = socket.clone();
            ring.push(
                Token(1),
                Op::Receive { socket, page, from: 0, length_bytes: PAGE, whole: false },
            );
            let (socket, other) = pair();
            let mut page = pool.take(512 << 10).expect("a page");
            page.fill(1);
            ring.push(Token(2), Op::Send { socket, parts: vec![page.freeze()] });
            sockets.push(other);
            let parts = vec![pool.take(PAGE).expect("a page").freeze()];
            ring.push(Token(3), Op::Write { file: file(), offset_bytes: 0, parts });
            if round == 0 {
                ring.turn(Wait::No, &mut Vec::new()).expect("turns");
            }
        }
        assert!(pool.used_bytes() > 0);
        drop(ring);
        assert_eq!(pool.used_bytes(), 0, "{choice:?}");
        assert_eq!(Arc::strong_count(&listener.0), 1);
        drop(socket);
        assert_eq!(theirs.read(&mut [0]).expect("ended"), 0, "the socket is closed");
    }
}

#[test]
fn auto_says_what_it_chose() {
    let (_, name) = open_ring(RingChoice::Auto).expect("opens");
    let uring = open_ring(RingChoice::Uring).is_ok();
    assert_eq!(name == "io_uring", uring, "{name}");
    assert!(uring || name.starts_with("threads ("), "{name}");
}
