//! The rules, one function each, and random requests beside a plain copy.

use units::{BLOCK_BYTES, Sequence};

use super::{Bench, Case, Subject, clearing, length};
use crate::{Answer, BlockError, Command, MAX_REQUEST_BYTES, Payload};

/// Each rule with the name that a failure says.
pub const CASES: &[(&str, Case)] = &[
    ("a_fresh_device_reads_as_zero", fresh),
    ("writes_are_read_at_any_alignment", any_alignment),
    ("small_writes_in_flight_all_count", small_writes_in_flight),
    ("the_later_write_wins", later_write_wins),
    ("cleared_bytes_read_as_zero", cleared),
    ("a_whole_device_can_be_trimmed", whole_trim),
    ("requests_past_the_end_change_nothing", out_of_range),
    ("empty_requests_change_nothing", empty),
    ("a_read_only_device_takes_no_change", read_only),
    ("extents_agree_with_contents", extents),
    ("a_flush_is_answered_among_writes", flushes),
    ("fua_is_taken_by_every_change", fua),
    ("the_largest_requests_are_taken", largest),
    ("larger_requests_are_refused", too_large),
    ("a_last_part_block_is_served", part_block),
    ("pages_are_written_as_bytes_are", pages),
    ("sequences_grow_with_answers", sequences),
    ("durable_writes_survive", survives),
];

/// Where blocks begin, end and are crossed: offset and length.
const EDGES: [(u64, u64); 12] = [
    (0, 1),
    (1, 511),
    (511, 2),
    (512, 512),
    (4095, 1),
    (4095, 2),
    (4096, 4096),
    (5000, 100),
    (8191, 4098),
    (12_288, 12_288),
    (20_000, 20_000),
    (65_536, 131_072),
];

fn fresh(bench: &mut Bench<'_>) {
    bench.make(1 << 20);
    bench.compare_all();
    bench.compare_extents(0, 1 << 20, 16);
}

fn any_alignment(bench: &mut Bench<'_>) {
    bench.make(1 << 20);
    for (n, (offset, bytes)) in (1..).zip(EDGES) {
        bench.write(offset, &pattern(n, bytes));
        bench.compare(offset, bytes);
        bench.compare_all();
    }
    for (offset, bytes) in EDGES {
        bench.compare(offset, bytes);
    }
}

/// 64 clients' worth of pieces of the same blocks: each read-modify-write must see the others'.
fn small_writes_in_flight(bench: &mut Bench<'_>) {
    bench.make(1 << 16);
    bench.write(0, &pattern(1, 1 << 16));
    let pieces: Vec<(u64, Vec<u8>)> = (0..64).map(|n| (n * 200, pattern(n + 2, 200))).collect();
    let tickets: Vec<_> = pieces
        .iter()
        .map(|(offset_bytes, bytes)| {
            let data = Payload::Borrowed(bytes);
            bench.submit(Command::Write { offset_bytes: *offset_bytes, data, fua: false })
        })
        .collect();
    for ticket in tickets {
        let result = bench.wait(ticket);
        assert!(result.is_ok(), "{}: {result:?}", bench.case);
    }
    for (offset, bytes) in pieces {
        bench.copy_in(offset, &bytes);
    }
    bench.compare_all();
}

fn later_write_wins(bench: &mut Bench<'_>) {
    bench.make(1 << 16);
    for n in 1..20 {
        bench.write(4000 + n, &pattern(n, 300));
        bench.write(4096, &pattern(n + 50, 4096));
        bench.compare(0, 1 << 14);
    }
}

fn cleared(bench: &mut Bench<'_>) {
    for trim in [true, false] {
        for (offset, bytes) in EDGES {
            bench.make(1 << 18);
            bench.write(0, &pattern(offset, 1 << 18));
            bench.clear(offset, bytes, trim);
            bench.compare_all();
            bench.write(offset, &pattern(9, 1));
            bench.compare_all();
        }
    }
}

fn whole_trim(bench: &mut Bench<'_>) {
    bench.make((1 << 20) + 512);
    bench.write(0, &pattern(3, (1 << 20) + 512));
    bench.clear(0, (1 << 20) + 512, true);
    bench.compare_all();
    bench.compare_extents(0, (1 << 20) + 512, 64);
}

fn out_of_range(bench: &mut Bench<'_>) {
    let size = 1 << 16;
    bench.make(size);
    bench.write(0, &pattern(1, size));
    let wanted = [BlockError::OutOfRange];
    let bytes = pattern(7, 4096);
    for offset_bytes in [size - 4095, size - 1, size, size + 4096, u64::MAX - 4095, u64::MAX] {
        let data = Payload::Borrowed(&bytes);
        bench.refuse(Command::Write { offset_bytes, data, fua: false }, &wanted);
        bench.refuse(Command::Read { offset_bytes, length_bytes: 4096 }, &wanted);
        bench.refuse(clearing(offset_bytes, 4096, true, false), &wanted);
        bench.refuse(clearing(offset_bytes, 4096, false, false), &wanted);
        let (length_bytes, count_max) = (4096, 4);
        bench.refuse(Command::Extents { offset_bytes, length_bytes, count_max }, &wanted);
    }
    bench.refuse(clearing(4096, u64::MAX, true, false), &wanted);
    bench.refuse(clearing(4096, u64::MAX - 4096, false, false), &wanted);
    bench.compare_all();
}

/// Taken or refused, as the device likes; but nothing changes, and nothing is read.
fn empty(bench: &mut Bench<'_>) {
    let size = 1 << 16;
    bench.make(size);
    bench.write(0, &pattern(1, size));
    for offset_bytes in [0, 1, 4096, size] {
        let commands = [
            Command::Read { offset_bytes, length_bytes: 0 },
            Command::Write { offset_bytes, data: Payload::Borrowed(&[]), fua: false },
            clearing(offset_bytes, 0, true, false),
            clearing(offset_bytes, 0, false, false),
            Command::Extents { offset_bytes, length_bytes: 0, count_max: 1 },
        ];
        for command in commands {
            let result = bench.ask(command); // that an answer fits is checked as it arrives
            let allowed = matches!(result, Ok(_) | Err(BlockError::OutOfRange));
            assert!(allowed, "{}: at {offset_bytes}: {result:?}", bench.case);
        }
    }
    bench.compare_all();
}

fn read_only(bench: &mut Bench<'_>) {
    let size = 1 << 16;
    bench.make(size);
    bench.write(100, &pattern(1, 9000));
    if !bench.subject.make_read_only() {
        return;
    }
    assert!(bench.subject.device().info().read_only, "{}: info", bench.case);
    let wanted = [BlockError::ReadOnly];
    let bytes = pattern(7, 4096);
    for offset_bytes in [0, 100, 4096] {
        for fua in [false, true] {
            let data = Payload::Borrowed(&bytes);
            bench.refuse(Command::Write { offset_bytes, data, fua }, &wanted);
            bench.refuse(clearing(offset_bytes, 4096, true, fua), &wanted);
            bench.refuse(clearing(offset_bytes, 4096, false, fua), &wanted);
        }
    }
    let flushed = bench.ask(Command::Flush);
    assert!(flushed.is_ok(), "{}: a flush of nothing: {flushed:?}", bench.case);
    bench.compare_all();
    bench.compare_extents(0, size, 16);
}

fn extents(bench: &mut Bench<'_>) {
    let size = 1 << 20;
    bench.make(size);
    for n in 0..16 {
        bench.write(n * 65_536 + 4096, &pattern(n + 1, 8192));
    }
    bench.clear(3 * 65_536, 65_536, true);
    bench.clear(5 * 65_536 + 5000, 300, false);
    for (offset, bytes) in [(0, size), (4096, 8192), (4097, 1), (70_001, 300_003), (size - 1, 1)] {
        for count_max in [1, 2, 7, 1000] {
            bench.compare_extents(offset, bytes, count_max);
        }
    }
    let all = bench.extents(0, size, 1000);
    assert!(all.iter().any(|it| !it.hole), "{}: written blocks are no holes", bench.case);
}

fn flushes(bench: &mut Bench<'_>) {
    bench.make(1 << 18);
    let bytes = pattern(1, 4096);
    let mut tickets = vec![bench.submit(Command::Flush)];
    for n in 0..32 {
        let (offset_bytes, data) = (n * 4096, Payload::Borrowed(&bytes));
        tickets.push(bench.submit(Command::Write { offset_bytes, data, fua: false }));
        if n % 5 == 0 {
            tickets.push(bench.submit(Command::Flush));
        }
        bench.copy_in(offset_bytes, &bytes);
    }
    for ticket in tickets {
        let result = bench.wait(ticket);
        assert!(result.is_ok(), "{}: {result:?}", bench.case);
    }
    let result = bench.ask(Command::Flush);
    assert!(result.is_ok(), "{}: {result:?}", bench.case);
    bench.compare_all();
}

fn fua(bench: &mut Bench<'_>) {
    bench.make(1 << 16);
    let bytes = pattern(1, 30_000);
    let data = Payload::Borrowed(&bytes);
    let written = bench.ask(Command::Write { offset_bytes: 77, data, fua: true });
    bench.copy_in(77, &bytes);
    let trimmed = bench.ask(clearing(100, 5000, true, true));
    bench.copy_in(100, &[0; 5000]);
    let zeroed = bench.ask(clearing(9000, 5000, false, true));
    bench.copy_in(9000, &[0; 5000]);
    for result in [written, trimmed, zeroed] {
        assert!(result.is_ok(), "{}: {result:?}", bench.case);
    }
    bench.compare_all();
    if bench.subject.reopen() {
        bench.compare_all();
    }
}

fn largest(bench: &mut Bench<'_>) {
    bench.make(96 << 20);
    for offset in [0, 4096, (40 << 20) + 513] {
        bench.write(offset, &pattern(offset + 1, MAX_REQUEST_BYTES));
        bench.compare(offset, MAX_REQUEST_BYTES);
    }
    bench.compare_all();
}

fn too_large(bench: &mut Bench<'_>) {
    bench.make(40 << 20);
    let wanted = [BlockError::TooLarge];
    let bytes = pattern(1, MAX_REQUEST_BYTES + 1);
    let data = Payload::Borrowed(&bytes);
    bench.refuse(Command::Write { offset_bytes: 0, data, fua: false }, &wanted);
    let length_bytes = MAX_REQUEST_BYTES + 1;
    bench.refuse(Command::Read { offset_bytes: 0, length_bytes }, &wanted);
    bench.compare(0, 1 << 20);
    bench.clear(1, length_bytes, true); // these have no limit
    bench.clear(1, length_bytes, false);
    bench.compare_extents(0, 40 << 20, 64);
}

fn part_block(bench: &mut Bench<'_>) {
    for tail in [512, 1536, 3584] {
        let size = 5 * BLOCK_BYTES + tail;
        bench.make(size);
        bench.compare_all();
        bench.write(size - 1, &[0xee]);
        bench.write(5 * BLOCK_BYTES - 10, &pattern(tail, tail + 10));
        bench.compare_all();
        bench.compare_extents(0, size, 16);
        bench.clear(size - 100, 100, true);
        bench.compare_all();
        let wanted = [BlockError::OutOfRange];
        let read = Command::Read { offset_bytes: 5 * BLOCK_BYTES, length_bytes: tail + 1 };
        bench.refuse(read, &wanted);
        let data = Payload::Borrowed(&[1; 2]);
        bench.refuse(Command::Write { offset_bytes: size - 1, data, fua: false }, &wanted);
        bench.compare_all();
        bench.clear(0, size, false);
        bench.compare_all();
    }
}

fn pages(bench: &mut Bench<'_>) {
    bench.make(1 << 20);
    for (offset_bytes, lengths) in [(0, [4096, 4096, 100]), (777, [8192, 8192, 8192])] {
        let mut pages = Vec::new();
        let mut all = Vec::new();
        for (n, page_bytes) in (1..).zip(lengths) {
            let Some(mut page) = bench.subject.page(page_bytes) else { return };
            let filled = pattern(offset_bytes + n, page.len() as u64);
            page.copy_from_slice(&filled);
            all.extend(filled);
            pages.push(page);
        }
        let length_bytes = all.len() - 33; // the last page is not full
        let data = Payload::Pages { pages, length_bytes };
        let result = bench.ask(Command::Write { offset_bytes, data, fua: false });
        assert!(result.is_ok(), "{}: {result:?}", bench.case);
        bench.copy_in(offset_bytes, &all[..length_bytes]);
        bench.compare_all();
    }
}

fn sequences(bench: &mut Bench<'_>) {
    bench.make(1 << 16);
    let mut last = Sequence::ZERO;
    for n in 0..30 {
        let bytes = pattern(n, 700);
        let command = match n % 3 {
            0 => Command::Write {
                offset_bytes: n * 100,
                data: Payload::Borrowed(&bytes),
                fua: false,
            },
            _ => clearing(n * 100, 5000, n % 3 == 1, false),
        };
        match bench.ask(command) {
            Ok(Answer::Written(sequence)) => {
                assert!(sequence > last, "{}: {sequence} after {last}", bench.case);
                last = sequence;
            }
            other => panic!("{}: {other:?}", bench.case),
        }
    }
}

fn survives(bench: &mut Bench<'_>) {
    bench.make(1 << 20);
    bench.write(1000, &pattern(1, 100_000));
    bench.clear(5000, 20_000, true);
    bench.write(300_000, &pattern(2, 3));
    let flushed = bench.ask(Command::Flush);
    assert!(flushed.is_ok(), "{}: {flushed:?}", bench.case);
    if bench.subject.reopen() {
        bench.compare_all();
    }
}

/// Random requests of one seed, some of them in flight together, beside a plain copy.
pub fn behaves_as_a_plain_copy(subject: &mut dyn Subject, seed: u64, requests: u64) {
    let mut random = Random(seed);
    let mut bench = Bench::new(subject, &format!("behaves_as_a_plain_copy, seed {seed}"));
    let size = 512 * (1 + random.below(2000));
    bench.make(size);
    for _ in 0..requests {
        let offset = random.below(size);
        let reach = [600, 5000, 300_000][length(random.below(3))];
        let bytes = 1 + random.below(reach.min(size - offset));
        match random.below(10) {
            0..=4 => bench.write(offset, &pattern(random.next(), bytes)),
            5 => bench.clear(offset, bytes, true),
            6 => bench.clear(offset, bytes, false),
            7 => bench.compare(offset, bytes),
            8 => bench.compare_extents(offset, bytes, 1 + length(random.below(9))),
            _ => in_flight_together(&mut bench, &mut random, size),
        }
    }
    bench.compare_all();
    bench.compare_extents(0, size, 1000);
    bench.settle();
}

/// Up to eight writes, trims and flushes that do not overlap, whose order so is no matter.
fn in_flight_together(bench: &mut Bench<'_>, random: &mut Random, size: u64) {
    let (mut at, mut tickets) = (random.below(size), Vec::new());
    while at < size && tickets.len() < 8 {
        let bytes = 1 + random.below(3000.min(size - at));
        let new = pattern(random.next(), bytes);
        match random.below(4) {
            0 => {
                tickets.push(bench.submit(clearing(at, bytes, true, false)));
                bench.copy_in(at, &vec![0; length(bytes)]);
            }
            1 => tickets.push(bench.submit(Command::Flush)),
            _ => {
                let data = Payload::Borrowed(&new);
                tickets.push(bench.submit(Command::Write { offset_bytes: at, data, fua: false }));
                bench.copy_in(at, &new);
            }
        }
        at += bytes;
    }
    while !tickets.is_empty() {
        let ticket = tickets.swap_remove(length(random.below(tickets.len() as u64)));
        let result = bench.wait(ticket);
        assert!(result.is_ok(), "{}: {result:?}", bench.case);
    }
}

/// Bytes that no other seed has, none of them zero.
fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(31) + 1);
    (0..bytes).map(|_| random.next().to_le_bytes()[5] | 1).collect()
}

/// SplitMix64: the suite's chance, from a seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
