//! Judges the linkage cases of a corpus of images: a parent that changed after its child was made.
//!
//! ```text
//! linkage_cases CORPUS     one line a case; exit 1 if a verdict is not that of manifest.json
//! ```
//!
//! Times and lengths count, inodes do not: the corpus keeps "before" and "after" as two files.

#![expect(clippy::disallowed_methods, reason = "an example has the file system to itself")]

use std::{error::Error, os::unix::fs::MetadataExt, path::Path, process::ExitCode};

use images::{Facts, Fault, Format, OpenOptions, Purpose, testing};
use lineage::{
    Changes, Child, Conclusion, Level, Notice, Outcome, Seal, Stat, Tree, Use, Verdict, Witness,
};
use serde_json::Value;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let corpus = std::env::args().nth(1).ok_or("usage: linkage_cases CORPUS")?;
    let corpus = Path::new(&corpus);
    let manifest: Value = serde_json::from_slice(&std::fs::read(corpus.join("manifest.json"))?)?;
    let cases = manifest["linkage"].as_array().ok_or("the manifest has no linkage cases")?;
    let mut wrong = 0;
    for case in cases {
        let id = case["id"].as_str().ok_or("a case without an id")?;
        let found = Found::of(&corpus.join(id), case)?;
        let faults = found.faults(case);
        wrong += usize::from(!faults.is_empty());
        let word = if faults.is_empty() { "ok   " } else { "WRONG" };
        println!("{word} {id}: {}", found.conclusion);
        for fault in faults {
            println!("      {fault}");
        }
    }
    println!("{} cases, {wrong} wrong", cases.len());
    Ok(if wrong == 0 && !cases.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What each level found of one case.
struct Found {
    conclusion: Conclusion,
    /// A digest of all bytes differs.
    digest: bool,
    /// The verdict of digests alone, of the bytes needed, and of both bytes compared.
    verdicts: [Verdict; 3],
}

impl Found {
    fn of(folder: &Path, case: &Value) -> Result<Self, Box<dyn Error>> {
        let name = |what: &str| case[what].as_str().ok_or("a case without names");
        let (parent, child) = (name("parent")?, name("child")?);
        let before = Parent::open(&folder.join("before"), parent)?;
        let after = Parent::open(&folder.join("after"), parent)?;
        let child = open_child(&folder.join("after"), child)?;

        let all = before.fill(Tree::new(before.size()));
        let needed = before.fill(Tree::needed(before.size(), child.mask()));
        let now = after.fill(all.again(after.size()));
        let seal = Seal::new(0, before.witness.clone(), Some(all.summary()))?;
        let seal = Seal::parse(&seal.encode())?;
        let notice = Notice::between(&seal, &after.witness);

        let mut changes = Changes::between(&all, &now);
        let by_digest = changes.judge(&child).overall();
        let masked = Changes::between(&needed, &after.fill(needed.again(after.size())));
        let ranges: Vec<_> = changes.to_refine().collect();
        for range in ranges {
            changes.refine(range.start, before.bytes(&range), after.bytes(&range));
        }
        let judgement = changes.judge(&child);
        let verdicts = [by_digest, masked.judge(&child).overall(), judgement.overall()];
        let digest = seal.content != Some(now.summary());
        Ok(Self { conclusion: Conclusion::new(notice, Some(judgement)), digest, verdicts })
    }

    /// Where the manifest says otherwise.
    fn faults(&self, case: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        let must = case["must_notice"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for level in must {
            let is_noticed = match level {
                "stat" => self.conclusion.notice.is_noticed_at(Level::Stat),
                "header" => self.conclusion.notice.is_noticed_at(Level::Header),
                "digest" => self.digest,
                _ => false,
            };
            if !is_noticed {
                faults.push(format!("{level} did not notice"));
            }
        }
        let is_visible = self.conclusion.outcome == Outcome::Visible;
        if case["bytes_differ"] != is_visible || case["harmless"] == is_visible {
            faults.push(format!("verdict {:?}", self.conclusion.outcome));
        }
        if (self.conclusion.exit(Use::Write) == 6) != is_visible {
            faults.push("writing is answered otherwise than by the verdict".to_owned());
        }
        let [by_digest, by_needed, _] = self.verdicts;
        if (by_needed == Verdict::Visible) != is_visible {
            faults.push(format!("the digest of what is needed says {by_needed:?}"));
        }
        // Of a node that the child holds in part it may say that it does not know.
        if by_digest != Verdict::Unknown && (by_digest == Verdict::Visible) != is_visible {
            faults.push(format!("the digest of all says {by_digest:?}"));
        }
        faults
    }
}

/// A parent at one time.
struct Parent {
    witness: Witness,
    bytes: Vec<u8>,
}

impl Parent {
    fn open(folder: &Path, name: &str) -> Result<Self, Box<dyn Error>> {
        let files = testing::Folder::new().with(name, std::fs::read(folder.join(name))?);
        let mut image = testing::open(&files, name, options(name, Purpose::Read))?;
        let meta = std::fs::metadata(folder.join(name))?;
        let modified_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        let (changed_ns, inode, device, born_ns) = (0, 0, 0, None);
        let stat = Stat { len: meta.len(), modified_ns, changed_ns, inode, device, born_ns };
        let facts: &Facts = image.layers()[0].facts();
        let witness = Witness::of(facts, vec![stat]);
        Ok(Self { witness, bytes: testing::read_all(&files, &mut image)? })
    }

    fn size(&self) -> u64 {
        self.witness.virtual_size
    }

    fn bytes(&self, range: &std::ops::Range<u64>) -> &[u8] {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        &self.bytes[place(range.start)..place(range.end)]
    }

    fn fill(&self, mut tree: Tree) -> Tree {
        for node in 0..tree.nodes() {
            tree.put(node, self.bytes(&tree.node_range(node)));
        }
        tree
    }
}

/// What the child itself holds; its parent is not asked for.
fn open_child(folder: &Path, name: &str) -> Result<Child, Box<dyn Error>> {
    let files = testing::Folder::new().with(name, std::fs::read(folder.join(name))?);
    let mut image = testing::open(&files, name, options(name, Purpose::Inspect))?;
    let size = image.virtual_size();
    let (mut place, mut map) = (0, Vec::new());
    while place < size {
        let part: Result<Vec<_>, Fault> = testing::run(image.layer_map(0, place..size), &files);
        let part = part?;
        place = part.last().map_or(size, images::Extent::end);
        map.extend(part);
    }
    Ok(Child::of_map(size, &map))
}

fn options(name: &str, purpose: Purpose) -> OpenOptions {
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    OpenOptions { format: Format::of_word(suffix), purpose, ..OpenOptions::default() }
}
