//! The verdict on a change, against its plain definition byte by byte.

use lineage::{Changes, Child, Ranges, SECTOR_BYTES, Tree, Verdict};
use proptest::{collection::vec, prelude::*};

const NODE: u64 = 64 << 10;
const DISK: u64 = 3 * NODE;
const SECTORS: u64 = DISK / SECTOR_BYTES;

fn narrow(n: u64) -> usize {
    usize::try_from(n).expect("small")
}

/// A parent's bytes: mostly zero, cut to its size.
fn disk(size: u64, writes: &[(u64, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; narrow(DISK)];
    for (place, value) in writes {
        bytes[narrow(*place)] = *value;
    }
    bytes.truncate(narrow(size));
    bytes
}

fn fill(mut tree: Tree, bytes: &[u8], skip: Option<u64>) -> Tree {
    for node in (0..tree.nodes()).filter(|node| Some(*node) != skip) {
        let range = tree.node_range(node);
        tree.put(node, &bytes[narrow(range.start)..narrow(range.end)]);
    }
    tree
}

/// Whether the child's guest sees another byte than before, by the definition.
fn sees_a_change(before: &[u8], after: &[u8], child: &Child) -> bool {
    (0..child.size()).any(|byte| {
        let of = |bytes: &[u8]| bytes.get(narrow(byte)).copied().unwrap_or(0);
        !child.held().meets(byte..byte + 1) && of(before) != of(after)
    })
}

fn refined(mut changes: Changes, before: &[u8], after: &[u8]) -> Changes {
    let ranges: Vec<_> = changes.to_refine().collect();
    for range in ranges {
        let of = |bytes: &[u8]| {
            let len = bytes.len();
            bytes[narrow(range.start).min(len)..narrow(range.end).min(len)].to_vec()
        };
        changes.refine(range.start, &of(before), &of(after));
    }
    changes
}

#[derive(Clone, Debug)]
struct Case {
    before: Vec<u8>,
    after: Vec<u8>,
    child: Child,
}

fn cases() -> impl Strategy<Value = Case> {
    let writes = |most| vec((0..DISK, any::<u8>()), 0..most);
    let sizes = (0..=DISK, 0..=DISK, 1..=SECTORS);
    let held = vec((0..SECTORS, 1..200_u64), 0..8);
    (writes(20), writes(4), sizes, any::<(bool, bool)>(), held).prop_map(
        |(old, new, (was, is, child), (keeps_size, overwrites), held)| {
            let is = if keeps_size { was } else { is };
            let changed = old.iter().chain(&new).copied();
            // Some changes put a byte where one was, and some put back what was there.
            let after: Vec<_> = if overwrites {
                changed.map(|(place, value)| (place ^ 1, value)).collect()
            } else {
                changed.collect()
            };
            let held: Ranges = held
                .iter()
                .map(|(start, len)| start * SECTOR_BYTES..(start + len) * SECTOR_BYTES)
                .collect();
            let child = Child::new(child * SECTOR_BYTES, &held);
            Case { before: disk(was, &old), after: disk(is, &after), child }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With both bytes at hand the verdict is exact; from digests alone it is exact or "unknown".
    #[test]
    fn the_verdict_is_what_the_bytes_say(case in cases(), masked in any::<bool>()) {
        let Case { before, after, child } = case;
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
        let empty = if masked {
            Tree::needed(size(&before), child.mask())
        } else {
            Tree::new(size(&before))
        };
        let now = fill(empty.again(size(&after)), &after, None);
        let sealed = fill(empty, &before, None);
        let changes = Changes::between(&sealed, &now);
        let visible = sees_a_change(&before, &after, &child);

        let from_digests = changes.judge(&child).overall();
        prop_assert!(from_digests != Verdict::Visible || visible);
        prop_assert!(from_digests >= Verdict::Unknown || !visible);
        if masked {
            prop_assert!(from_digests != Verdict::Unknown, "a masked digest decides alone");
        }

        let judgement = refined(changes, &before, &after).judge(&child);
        prop_assert_eq!(judgement.overall() == Verdict::Visible, visible);
        prop_assert!(judgement.of(Verdict::Unknown).is_empty());
        for byte in 0..DISK {
            let of = |bytes: &[u8]| bytes.get(narrow(byte)).copied().unwrap_or(0);
            let verdict = judgement.at(byte);
            if of(&before) != of(&after) && !masked {
                let wanted = if byte >= child.size() {
                    Verdict::Beyond
                } else if child.held().meets(byte..byte + 1) {
                    Verdict::Shadowed
                } else {
                    Verdict::Visible
                };
                prop_assert_eq!(verdict, wanted, "byte {}", byte);
            }
            if verdict == Verdict::Visible {
                // Something in its sector did change.
                let sector = byte / SECTOR_BYTES * SECTOR_BYTES..(byte / SECTOR_BYTES + 1) * SECTOR_BYTES;
                let differs = sector.into_iter().any(|byte| {
                    before.get(narrow(byte)).unwrap_or(&0) != after.get(narrow(byte)).unwrap_or(&0)
                });
                prop_assert!(differs, "byte {}", byte);
            }
        }
        prop_assert!(judgement.ranges().windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
    }

    /// A digest of all, with one of the nodes that the child holds in part: decides alone, and tells
    /// harmless changes from none.
    #[test]
    fn edges_make_a_digest_of_all_decide(case in cases(), grown in vec((0..SECTORS, 1..50_u64), 0..3)) {
        let Case { before, after, child } = case;
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
        let (sealed, blank) = (Tree::new(size(&before)), Tree::new(size(&after)));
        let (sealed, now) = (fill(sealed, &before, None), fill(blank, &after, None));
        let edges = Tree::needed(size(&before), child.mask());
        let edges_now = fill(edges.again(size(&after)), &after, None);
        let edges = fill(edges, &before, None);
        let mut changes = Changes::between(&sealed, &now);
        changes.sharpen(&edges, &edges_now);

        let visible = sees_a_change(&before, &after, &child);
        let verdict = changes.judge(&child).overall();
        prop_assert_eq!(verdict == Verdict::Visible, visible);
        prop_assert!(verdict != Verdict::Unknown);
        prop_assert_eq!(verdict == Verdict::Same, sealed.compare(&now).differs.is_empty());

        // A child that was written since, and one that let go: never wrong, perhaps unknown.
        for lets_go in [false, true] {
            let mut held = child.held().clone();
            for (start, len) in &grown {
                let run = start * SECTOR_BYTES..(start + len) * SECTOR_BYTES;
                if lets_go { held.remove(run) } else { held.insert(run) }
            }
            let child = Child::new(child.size(), &held);
            let visible = sees_a_change(&before, &after, &child);
            let verdict = changes.judge(&child).overall();
            prop_assert!(verdict != Verdict::Visible || visible);
            prop_assert!(verdict >= Verdict::Unknown || !visible);
        }
    }

    /// What was not hashed is never called harmless where the child reads it.
    #[test]
    fn a_partial_digest_hides_no_change(case in cases(), gap in 0..3_u64) {
        let Case { before, after, child } = case;
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
        let sealed = fill(Tree::new(size(&before)), &before, Some(gap));
        let now = fill(Tree::new(size(&after)), &after, None);
        let verdict = Changes::between(&sealed, &now).judge(&child).overall();
        if sees_a_change(&before, &after, &child) {
            prop_assert!(verdict >= Verdict::Unknown);
        }
    }

    /// A child that let go of what it held when it was sealed: the masked digest says nothing of it.
    #[test]
    fn what_the_child_let_go_is_unknown(
        case in cases(), gone in (0..SECTORS, 1..200_u64),
    ) {
        let Case { before, after, child } = case;
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
        let empty = Tree::needed(size(&before), child.mask());
        let now = fill(empty.again(size(&after)), &after, None);
        let sealed = fill(empty, &before, None);
        let mut held = child.held().clone();
        held.remove(gone.0 * SECTOR_BYTES..(gone.0 + gone.1) * SECTOR_BYTES);
        let child = Child::new(child.size(), &held);
        let changes = Changes::between(&sealed, &now);
        let verdict = changes.judge(&child).overall();
        if sees_a_change(&before, &after, &child) {
            prop_assert!(verdict >= Verdict::Unknown);
        }
        prop_assert!(verdict != Verdict::Visible || sees_a_change(&before, &after, &child));
    }
}

fn one(range: std::ops::Range<u64>) -> Ranges {
    std::iter::once(range).collect()
}

#[test]
fn a_change_is_cut_where_the_child_holds_and_ends() {
    let child = Child::new(4096, &one(1024..2048));
    let judgement = Changes::known(one(512..8192)).judge(&child);
    assert_eq!(
        judgement.ranges(),
        [
            (512..1024, Verdict::Visible),
            (1024..2048, Verdict::Shadowed),
            (2048..4096, Verdict::Visible),
            (4096..8192, Verdict::Beyond),
        ]
    );
    assert_eq!(judgement.at(511), Verdict::Same);
    assert_eq!(judgement.at(2047), Verdict::Shadowed);
    assert_eq!(judgement.at(9000), Verdict::Same);
}

#[test]
fn a_sector_held_in_part_falls_through() {
    let child = Child::new(5000, &[100..1500, 4608..5000].into_iter().collect());
    assert_eq!(child.held().iter().collect::<Vec<_>>(), [512..1024, 4608..5000]);
}

#[test]
fn without_a_digest_only_what_is_held_is_harmless() {
    let child = Child::new(NODE, &one(0..NODE));
    assert_eq!(Changes::unknown(2 * NODE).judge(&child).overall(), Verdict::Same);
    let child = Child::new(NODE, &one(512..NODE));
    let judgement = Changes::unknown(2 * NODE).judge(&child);
    assert_eq!(judgement.ranges(), [(0..512, Verdict::Unknown)]);
}

#[test]
fn comparing_half_a_node_does_not_clear_the_other_half() {
    let mut after = vec![0; 65536];
    after[60000] = 1;
    let sealed = fill(Tree::new(NODE), &vec![0; 65536], None);
    let now = fill(Tree::new(NODE), &after, None);
    let mut changes = Changes::between(&sealed, &now);
    changes.refine(0, &vec![0; 32768], &after[..32768]);
    let judgement = changes.judge(&Child::new(NODE, &Ranges::new()));
    assert_eq!(judgement.ranges(), [(32768..NODE, Verdict::Unknown)]);
}
