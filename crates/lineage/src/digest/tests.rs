//! Trees against the plainest model: all bytes hashed, and compared one by one.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::Malformed;

const N: u64 = NODE_BYTES;

fn whole(bytes: &[u8]) -> Tree {
    let mut tree = Tree::new(wide(bytes.len()));
    fill(&mut tree, bytes, 0..u64::MAX);
    tree
}

fn fill(tree: &mut Tree, bytes: &[u8], nodes: Range<u64>) {
    for node in nodes.start..nodes.end.min(tree.nodes()) {
        let range = tree.node_range(node);
        tree.put(node, &bytes[narrow(range.start)..narrow(range.end)]);
    }
}

fn disk(size: u64, writes: &[(u64, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; narrow(size)];
    for (place, value) in writes {
        bytes[narrow(*place)] = *value;
    }
    bytes
}

#[test]
fn a_hole_costs_one_run_and_no_hash() {
    let mut tree = Tree::new(u64::MAX);
    tree.put_zero(0..tree.nodes());
    assert!(tree.is_whole() && tree.groups.is_empty());
    assert_eq!((tree.root(), tree.share().percent()), (Digest::ZERO, 100));
    tree.put_digest(tree.nodes() - 1, Digest([7; 32]));
    let bytes = tree.encode();
    assert!(bytes.len() < 256, "{}", bytes.len());
    assert_eq!(Tree::parse(&bytes).unwrap(), tree);
}

/// The definition of section 12.1, written out by hand.
#[test]
fn the_root_is_what_the_format_says() {
    let mut bytes = disk(17 * N + 100, &[(4096, 1), (17 * N + 99, 2)]);
    bytes[narrow(N)..narrow(2 * N)].fill(9);
    let parent = |children: &[(usize, [u8; 32])]| {
        let mut hasher = blake3::Hasher::new_derive_key(PARENT_CONTEXT);
        let mut text = [0; 512];
        for (place, child) in children {
            text[place * 32..][..32].copy_from_slice(child);
        }
        *hasher.update(&text).finalize().as_bytes()
    };
    let leaf = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
    let mut last = [0; 4096];
    last[99] = 2;
    let nines = leaf(&[9; 4096]);
    let all_nines: Vec<_> = (0..16).map(|place| (place, nines)).collect();
    let low = parent(&[(0, parent(&[(1, leaf(&bytes[4096..8192]))])), (1, parent(&all_nines))]);
    let high = parent(&[(1, parent(&[(0, leaf(&last))]))]);
    assert_eq!(whole(&bytes).root(), Digest(parent(&[(0, low), (1, high)])));
}

#[test]
fn growing_by_zeroes_differs_nowhere() {
    let before = whole(&disk(N + 7, &[(3, 1)]));
    let after = whole(&disk(5 * N + 7, &[(3, 1)]));
    assert_eq!(before.compare(&after), Difference::default());
    let tail = whole(&disk(5 * N + 7, &[(3, 1), (4 * N, 5), (5 * N + 6, 1)]));
    let wanted: Ranges = std::iter::once(4 * N..5 * N + 7).collect();
    assert_eq!(before.compare(&tail).differs, wanted);
    assert_eq!(tail.compare(&before).differs, wanted);
}

#[test]
fn what_was_written_is_not_known_any_more() {
    let bytes = disk(4 * N, &[(0, 1), (N, 2), (2 * N, 3)]);
    let mut tree = whole(&bytes);
    tree.forget(N + 5..2 * N + 1);
    assert_eq!(tree.share().to_string(), "verified 50 %");
    assert_eq!(tree.get(0), Some(Digest::of_node(&bytes[..narrow(N)])));
    assert_eq!((tree.get(1), tree.get(2)), (None, None));
    let difference = tree.compare(&whole(&bytes));
    assert!(difference.differs.is_empty());
    assert_eq!(difference.unknown.iter().collect::<Vec<_>>(), vec![N..3 * N; 1]);
    let node = |n: u64| &bytes[narrow(n * N)..narrow((n + 1) * N)];
    assert_eq!(tree.check(1, node(1)), Found::NotKnown);
    assert_eq!(tree.check(0, node(0)), Found::Same);
    assert_eq!(tree.check(0, node(1)), Found::Differs);
    tree.forget(0..0);
    tree.forget(9 * N..10 * N);
    assert_eq!(tree.share().percent(), 50);
}

#[test]
fn a_masked_tree_sees_only_what_the_child_needs() {
    let held: Ranges =
        [0..2 * N, 3 * N + 512..3 * N + 1024, 4 * N + 512..u64::MAX].into_iter().collect();
    let before = disk(5 * N, &[(2 * N, 1), (3 * N + 512, 7)]);
    let mut tree = Tree::needed(5 * N, held);
    assert_eq!(tree.share().percent(), 40, "two nodes are hidden");
    fill(&mut tree, &before, 2..5);
    let now = |writes: &[(u64, u8)]| {
        let mut bytes = before.clone();
        for (place, value) in writes {
            bytes[narrow(*place)] = *value;
        }
        let mut tree = tree.again(5 * N);
        fill(&mut tree, &bytes, 0..5);
        tree
    };
    let hidden = now(&[(0, 1), (3 * N + 600, 3), (4 * N + 512, 1), (5 * N - 1, 1)]);
    assert_eq!(tree.compare(&hidden), Difference::default());
    assert_eq!(tree.root(), hidden.root());
    let seen = tree.compare(&now(&[(3 * N + 1024, 1)]));
    assert_eq!(seen.differs.iter().collect::<Vec<_>>(), vec![3 * N..4 * N; 1]);
    tree.forget(0..5 * N);
    assert_eq!(tree.share().percent(), 40, "what is hidden stays known");
}

#[test]
fn trees_of_other_masks_do_not_compare() {
    let mut bytes = disk(3 * N, &[]);
    let all = whole(&bytes);
    bytes[narrow(N)] = 1;
    let mut masked = Tree::needed(3 * N, std::iter::once(N..N + 512).collect());
    fill(&mut masked, &bytes, 0..3);
    let difference = all.compare(&masked);
    assert!(difference.differs.is_empty());
    assert_eq!(difference.unknown.iter().collect::<Vec<_>>(), vec![N..2 * N; 1]);
}

#[test]
fn a_form_that_promises_too_much_is_refused() {
    let mut form = crate::wire::Writer::new(*b"SLDIGEST", 1);
    form.put(&u64::MAX.to_le_bytes()).put(&[0; 8]);
    let all: Ranges = std::iter::once(0..u64::MAX.div_ceil(N)).collect();
    form.ranges(&all);
    form.ranges(&all);
    assert_eq!(Tree::parse(&form.seal()), Err(Malformed::Short { what: "digest tree" }));
    let mut form = crate::wire::Writer::new(*b"SLDIGEST", 1);
    form.put(&N.to_le_bytes()).put(&[0xff; 64]);
    assert_eq!(Tree::parse(&form.seal()), Err(Malformed::Short { what: "digest tree" }));
}

#[test]
fn a_form_that_no_tree_has_is_refused() {
    let form = |mask: Range<u64>, known: Range<u64>, stored: Range<u64>, hashes: &[u8]| {
        let mut form = crate::wire::Writer::new(*b"SLDIGEST", 1);
        form.put(&(4 * N).to_le_bytes());
        for range in [mask, known, stored] {
            form.ranges(&std::iter::once(range).collect());
        }
        form.put(hashes);
        Tree::parse(&form.seal()).map(|_| ())
    };
    let field = |field| Err(Malformed::Field { what: "digest tree", field });
    assert_eq!(form(0..0, 0..4, 1..3, &[1; 64]), Ok(()));
    assert_eq!(form(0..0, 0..5, 1..3, &[1; 64]), field("known nodes"));
    assert_eq!(form(0..N, 1..4, 1..3, &[1; 64]), field("known nodes"));
    assert_eq!(form(0..0, 0..2, 1..3, &[1; 64]), field("stored nodes"));
    assert_eq!(form(N..2 * N, 0..4, 1..3, &[1; 64]), field("stored nodes"));
    assert_eq!(form(0..0, 0..4, 1..3, &[0; 64]), field("hash"));
    assert_eq!(form(0..0, 0..4, 1..3, &[1; 65]), field("length"));
    assert_eq!(form(0..0, 0..4, 1..3, &[1; 63]), Err(Malformed::Short { what: "digest tree" }));
}

fn writes(size: u64) -> impl Strategy<Value = Vec<(u64, u8)>> {
    vec((0..size, any::<u8>()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any order of building gives one tree, and its form leads back to it.
    #[test]
    fn the_order_of_building_does_not_matter(
        writes in writes(40 * N + 5),
        mut order in Just((0..41_u64).collect::<Vec<_>>()).prop_shuffle(),
        mask in vec((0..41 * N, 0..3 * N), 0..3),
        known in 0..42_usize,
        void in (0..41 * N, 0..3 * N),
    ) {
        let bytes = disk(40 * N + 5, &writes);
        let mask: Ranges = mask.iter().map(|(start, len)| *start..start + len).collect();
        let build = |order: &[u64]| {
            let mut tree = Tree::needed(wide(bytes.len()), mask.clone());
            for node in order {
                fill(&mut tree, &bytes, *node..node + 1);
            }
            tree
        };
        order.truncate(known);
        let mut tree = build(&order);
        tree.forget(void.0..void.0 + void.1);
        for node in &order {
            fill(&mut tree, &bytes, *node..node + 1);
        }
        order.sort_unstable();
        let sorted = build(&order);
        prop_assert_eq!(&tree, &sorted);
        prop_assert_eq!(tree.summary(), sorted.summary());
        let form = tree.encode();
        let back = Tree::parse(&form).unwrap();
        prop_assert_eq!(&back, &tree);
        prop_assert!(back.is_of(&tree.summary()));
        prop_assert_eq!(back.encode(), form);
    }

    /// A node is said to differ where a byte of it does, and nowhere else; roots agree with that.
    #[test]
    fn trees_differ_where_bytes_do(
        one in writes(20 * N), two in writes(20 * N), sizes in (0..=20 * N, 0..=20 * N),
    ) {
        let (mut before, mut after) = (disk(20 * N, &one), disk(20 * N, &two));
        before.truncate(narrow(sizes.0));
        after.truncate(narrow(sizes.1));
        let trees = (whole(&before), whole(&after));
        let difference = trees.0.compare(&trees.1);
        let longer = sizes.0.max(sizes.1);
        before.resize(narrow(longer), 0);
        after.resize(narrow(longer), 0);
        let mut wanted = Ranges::new();
        for node in 0..longer.div_ceil(N) {
            let range = node * N..longer.min((node + 1) * N);
            let place = narrow(range.start)..narrow(range.end);
            if before[place.clone()] != after[place] {
                wanted.insert(range);
            }
        }
        if trees.0.nodes() == trees.1.nodes() {
            prop_assert_eq!(trees.0.root() == trees.1.root(), wanted.is_empty());
        }
        prop_assert_eq!(difference.differs, wanted);
        prop_assert!(difference.unknown.is_empty());
    }
}
