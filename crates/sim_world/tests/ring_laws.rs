//! Laws of the simulated ring: order by seed, syncs that cover what was answered, torn flights,
//! streams that arrive whole and in order however they are cut.

use proptest::prelude::*;
use sim_world::{
    CutPolicy, Fault, Moment, Received, Rule, SECTOR_BYTES, Seed, SimClock, SimDisk, SimNet,
    SimRing, is_crash,
};
use std::collections::BTreeSet;
use world::{
    Access, Bytes, Clock, Disk, Done, File, Finished, Op, Pool, Ring, Socket, Token, Wait,
};

struct World {
    disk: SimDisk,
    net: SimNet,
    clock: SimClock,
    ring: SimRing,
    file: File,
    pool: Pool,
}

fn world(seed: u64) -> World {
    let seed = Seed(seed);
    let (disk, net, clock) = (SimDisk::new(seed), SimNet::new(seed), SimClock::default());
    let file = disk.open("f", Access::WRITE_DIRECT.new_file()).expect("made");
    disk.sync_dir("").expect("no fault");
    let ring = SimRing::new(seed, &disk, &net, &clock);
    World { disk, net, clock, ring, file, pool: Pool::new(4 << 20) }
}

impl World {
    /// A page of one byte's value, aligned as direct writes must be.
    fn filled(&self, fill: u8, length: usize) -> Bytes {
        let mut page = self.pool.take(length).expect("room");
        page.fill(fill);
        page.freeze()
    }

    fn push_write(&mut self, token: u64, sector: u64, fill: u8, sectors: usize) {
        let parts = vec![self.filled(fill, sectors * 512)];
        let (file, offset_bytes) = (self.file.clone(), sector * SECTOR_BYTES);
        self.ring.push(Token(token), Op::Write { file, offset_bytes, parts });
    }

    fn push_sync(&mut self, token: u64) {
        let file = self.file.clone();
        self.ring.push(Token(token), Op::Sync { file });
    }

    fn wait_all(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        while self.ring.in_flight() > 0 {
            self.ring.turn(Wait::Forever, &mut done).expect("turns");
        }
        done
    }

    fn cut_none(&self) -> SimDisk {
        self.disk.power_cut(CutPolicy::None, &mut Seed(0).rng("cut"))
    }
}

fn moved(done: &Done) -> usize {
    match &done.result {
        Ok(Finished::Bytes(bytes)) => *bytes,
        other => panic!("bytes expected, not {other:?}"),
    }
}

#[test]
fn completions_repeat_for_a_seed_and_differ_between() {
    let run = |seed| {
        let mut world = world(seed);
        for n in 0..12_u8 {
            world.push_write(u64::from(n), u64::from(n) % 5, n + 1, 2);
        }
        world.push_sync(99);
        let order: Vec<u64> = world.wait_all().iter().map(|done| done.token.0).collect();
        (order, world.clock.boot_ns(), world.disk.digest_visible(), world.disk.digest())
    };
    assert_eq!(run(1), run(1));
    let orders: BTreeSet<Vec<u64>> = (0..20).map(|seed| run(seed).0).collect();
    assert!(orders.len() > 15, "seeds give orders of their own: {}", orders.len());
}

#[test]
fn a_sync_covers_only_what_was_answered_before() {
    for seed in 0..50 {
        let mut world = world(seed);
        world.push_write(1, 0, 1, 1);
        world.wait_all();
        world.push_write(2, 1, 2, 1);
        world.push_sync(3);
        world.wait_all();
        let image = world.cut_none();
        assert_eq!(image.bytes("f").expect("there"), [1; 512], "seed {seed}");
        world.push_sync(4);
        world.wait_all();
        assert_eq!(world.cut_none().length_bytes("f"), Some(1024), "seed {seed}");
    }
}

#[test]
fn writes_in_flight_are_torn_by_cuts_and_kills() {
    let mut world = world(1);
    world.push_write(1, 0, 7, 4);
    let mut rng = Seed(1).rng("cuts");
    let shape = |disk: &SimDisk| -> Vec<u8> {
        let bytes = disk.bytes_at("f", 0, 4 * 512).expect("there");
        bytes.iter().step_by(512).copied().collect()
    };
    let mut cuts = BTreeSet::new();
    let mut kills = BTreeSet::new();
    for _ in 0..1_000 {
        cuts.insert(shape(&world.disk.power_cut(CutPolicy::Torn, &mut rng)));
        kills.insert(shape(&world.disk.kill(&mut rng)));
    }
    assert_eq!((cuts.len(), kills.len()), (16, 16), "any subset of the sectors");
    assert_eq!(shape(&world.cut_none()), [0; 4]);
    assert_eq!(moved(&world.wait_all()[0]), 4 * 512);
    for _ in 0..100 {
        assert_eq!(shape(&world.disk.kill(&mut rng)), [7; 4], "answered, so it is there");
    }
}

#[test]
fn reads_end_short_at_the_end() {
    let mut world = world(2);
    world.push_write(1, 0, 9, 3);
    world.wait_all();
    let page = world.pool.take(4096).expect("room");
    let (file, length_bytes) = (world.file.clone(), 4096);
    world.ring.push(Token(2), Op::Read { file, offset_bytes: 512, page, length_bytes });
    let done = world.wait_all();
    assert_eq!(moved(&done[0]), 1024);
    let page = done[0].page.as_ref().expect("comes back");
    assert_eq!(page[..1024], [9; 1024]);
}

#[test]
fn faults_reach_the_ring() {
    let mut world = world(3);
    world.disk.inject(Rule::once(Fault::ShortWrite));
    world.push_write(1, 0, 1, 8);
    let short = moved(&world.wait_all()[0]);
    assert!(short < 8 * 512 && short.is_multiple_of(512), "{short}");
    world.disk.inject(Rule::once(Fault::WriteError));
    world.push_write(2, 0, 1, 1);
    let error = world.wait_all().remove(0).result.expect_err("EIO");
    assert_eq!(error.raw_os_error(), Some(5));
    world.disk.set_capacity_bytes(Some(8192));
    world.push_write(3, 0, 1, 24);
    assert_eq!(moved(&world.wait_all()[0]), 8192, "what fits is written");
    world.push_write(4, 16, 1, 8);
    let error = world.wait_all().remove(0).result.expect_err("ENOSPC");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let slow_ns = 5_000_000_000;
    world.disk.inject(Rule::once(Fault::Slow(slow_ns)));
    let before_ns = world.clock.boot_ns();
    world.push_sync(5);
    world.wait_all();
    assert!(world.clock.boot_ns() > before_ns + slow_ns);
}

#[test]
fn a_crash_reaches_all_that_is_in_flight() {
    for n in 0..6 {
        let mut world = world(n);
        world.disk.crash_at_operation(world.disk.operations() + n, Moment::Partly);
        for token in 0..6 {
            world.push_write(token, token, 1, 1);
        }
        let done = world.wait_all();
        let crashed = done.iter().filter(|done| done.result.as_ref().is_err_and(is_crash));
        assert!(crashed.count() >= 6 - usize::try_from(n).expect("small"));
        assert!(world.disk.is_crashed());
    }
}

#[test]
fn waits_end_by_time_waker_or_for_want_of_events() {
    let mut world = world(4);
    let mut done = Vec::new();
    let before_ns = world.clock.boot_ns();
    world.ring.turn(Wait::Ns(1_000_000), &mut done).expect("turns");
    assert!(world.clock.boot_ns() >= before_ns + 1_000_000);
    world.ring.turn(Wait::Forever, &mut done).expect("returns, nothing can happen");
    world.push_sync(1);
    world.ring.waker().wake();
    world.ring.turn(Wait::Forever, &mut done).expect("woken");
    assert!(done.is_empty(), "the waker came before the sync's end");
    while done.is_empty() {
        world.ring.turn(Wait::No, &mut done).expect("polling moves time too");
    }
}

#[test]
#[should_panic(expected = "is not aligned to 512 bytes")]
fn misaligned_parts_are_our_bug() {
    let mut world = world(5);
    let parts = vec![world.filled(1, 1024).slice(0..100)];
    let file = world.file.clone();
    world.ring.push(Token(1), Op::Write { file, offset_bytes: 0, parts });
}

/// Sends the message to a server that sends back what it receives until its client ends.
/// Gives what came back, and when.
fn echo(seed: u64, message: &[u8]) -> (Vec<u8>, u64) {
    let mut world = world(seed);
    let listener = world.net.listener();
    world.ring.push(Token(0), Op::Accept { listener: listener.clone() });
    let client = world.net.connect(&listener).expect("listens");
    let (mut sent, mut answer, mut to_send) = (0, Vec::new(), Bytes::zeros(0));
    let mut socket: Option<Socket> = None;
    for _ in 0..100_000 {
        sent += client.send(&message[sent..]).expect("open");
        let mut done = Vec::new();
        world.ring.turn(Wait::Forever, &mut done).expect("turns");
        for Done { token, result, page } in done {
            match (token.0, result.expect("no fault")) {
                (0, Finished::Socket(accepted)) => socket = Some(accepted),
                (1, Finished::Bytes(0)) => return (answer, world.clock.boot_ns()),
                (1, Finished::Bytes(bytes)) => {
                    to_send = page.expect("comes back").freeze().slice(0..bytes);
                }
                (2, Finished::Bytes(bytes)) => to_send = to_send.slice(bytes..to_send.len()),
                other => panic!("unexpected {other:?}"),
            }
        }
        if let (Some(socket), 0) = (socket.clone(), world.ring.in_flight()) {
            if to_send.is_empty() {
                let (page, length_bytes) = (world.pool.take(4096).expect("room"), 4096);
                let receive = Op::Receive { socket, page, from: 0, length_bytes, whole: false };
                world.ring.push(Token(1), receive);
            } else {
                let parts = vec![to_send.slice(0..1), to_send.slice(1..to_send.len())];
                world.ring.push(Token(2), Op::Send { socket, parts });
            }
        }
        while let Ok(Received::Bytes(_)) = client.receive(&mut answer) {}
        if answer.len() == message.len() {
            client.shut_down();
        }
    }
    panic!("seed {seed}: the echo never ended");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn streams_arrive_whole_and_in_order(seed in any::<u64>(), length in 1..600_000_usize) {
        let mut message = vec![0; length];
        Seed(seed).rng("message").fill(&mut message);
        let (answer, ended_ns) = echo(seed, &message);
        prop_assert!(answer == message);
        prop_assert_eq!(echo(seed, &message).1, ended_ns, "the same cuts at the same times");
    }
}

#[test]
fn a_partition_holds_everything_back() {
    let mut world = world(6);
    let listener = world.net.listener();
    world.ring.push(Token(0), Op::Accept { listener: listener.clone() });
    let client = world.net.connect(&listener).expect("listens");
    let Ok(Finished::Socket(socket)) = world.wait_all().remove(0).result else {
        panic!("a socket expected");
    };
    client.set_partitioned(true);
    assert_eq!(client.send(b"x").expect("it lies on the way"), 1);
    let page = world.pool.take(4096).expect("room");
    world.ring.push(Token(1), Op::Receive { socket, page, from: 0, length_bytes: 1, whole: false });
    let mut done = Vec::new();
    world.ring.turn(Wait::Ns(1_000_000_000), &mut done).expect("turns");
    assert!(done.is_empty());
    client.set_partitioned(false);
    assert_eq!(moved(&world.wait_all()[0]), 1);
}

#[test]
fn ends_and_resets_reach_the_server() {
    for reset in [false, true] {
        let mut world = world(7);
        let listener = world.net.listener();
        world.ring.push(Token(0), Op::Accept { listener: listener.clone() });
        let client = world.net.connect(&listener).expect("listens");
        let Ok(Finished::Socket(socket)) = world.wait_all().remove(0).result else {
            panic!("a socket expected");
        };
        let page = world.pool.take(4096).expect("room");
        let receive =
            Op::Receive { socket: socket.clone(), page, from: 0, length_bytes: 4096, whole: false };
        world.ring.push(Token(1), receive);
        world.ring.turn(Wait::Ns(1_000), &mut Vec::new()).expect("turns");
        assert_eq!(world.ring.in_flight(), 1, "nothing was sent yet");
        if reset {
            client.reset();
        } else {
            client.shut_down();
        }
        let done = world.wait_all().remove(0);
        assert!(done.page.is_some(), "the page comes back in any case");
        match done.result {
            Ok(Finished::Bytes(0)) => assert!(!reset),
            Err(error) => assert!(reset && error.kind() == std::io::ErrorKind::ConnectionReset),
            other => panic!("unexpected {other:?}"),
        }
        let parts = vec![world.filled(1, 8)];
        world.ring.push(Token(2), Op::Send { socket, parts });
        assert!(world.wait_all().remove(0).result.is_err());
    }
}

#[test]
fn a_dropped_ring_leaves_its_writes_to_the_kernel() {
    let mut world = world(8);
    world.push_write(1, 0, 7, 1);
    drop(world.ring);
    drop(world.file);
    let mut rng = Seed(8).rng("kill");
    let lengths: BTreeSet<Option<u64>> =
        (0..50).map(|_| world.disk.kill(&mut rng).length_bytes("f")).collect();
    assert_eq!(lengths, BTreeSet::from([Some(0), Some(512)]), "done or not, by seed");
}
