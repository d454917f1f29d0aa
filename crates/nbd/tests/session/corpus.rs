//! Replays the fuzzer's corpus: seeds, and what it once found.

use std::path::Path;

use crate::driver;

#[test]
fn the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/nbd_session");
    let mut files = 0;
    for file in corpus.read_dir().expect("the corpus is checked in") {
        let path = file.expect("readable").path();
        driver::check(&read(&path));
        files += 1;
    }
    assert!(files >= 4, "only {files} files in {}", corpus.display());
}

fn read(path: &Path) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "a test reads what is checked in beside it")]
    std::fs::read(path).expect("readable")
}
