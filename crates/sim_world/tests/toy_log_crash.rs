//! The simulator has teeth: a toy log that is right passes every crash, each of its bugs is caught.
//!
//! The log: records are sectors of "log"; every third record a snapshot "snapshot" takes them over
//! (new file, sync, rename, directory sync), then the log is cut to nothing.

use sim_world::{Seed, SimDisk, every_crash, every_kill, is_crash};
use std::io;
use world::{Access, Disk, File};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    AckBeforeSync,
    SnapshotNotSynced,
    DirectoryNotSyncedAtFirst,
    DirectoryNotSyncedAfterRename,
    NoChecksum,
    TornSnapshotInPlace,
}

const SECTOR: usize = 512;
const RECORDS: u8 = 7;

/// Two sectors that say the number, so that a torn record shows.
fn record(number: u8) -> [u8; 2 * SECTOR] {
    [number; 2 * SECTOR]
}

fn append(log: &File, at: u8, number: u8, bug: Bug, acked: &mut u8) -> io::Result<()> {
    log.write_at(u64::from(at) * 2 * SECTOR as u64, &record(number))?;
    if bug == Bug::AckBeforeSync {
        *acked = number;
    }
    log.sync_data()?;
    *acked = number;
    Ok(())
}

fn snapshot(disk: &SimDisk, number: u8, bug: Bug) -> io::Result<()> {
    if bug == Bug::TornSnapshotInPlace {
        let file = match disk.open("snapshot", Access::WRITE) {
            Ok(file) => file,
            Err(error) if is_crash(&error) => return Err(error),
            Err(_) => disk.open("snapshot", Access::WRITE.new_file())?,
        };
        file.write_at(0, &record(number))?;
        file.sync_data()?;
        return disk.sync_dir("");
    }
    let file = disk.open("snapshot.new", Access::WRITE.new_file())?;
    file.write_at(0, &record(number))?;
    if bug != Bug::SnapshotNotSynced {
        file.sync_data()?;
    }
    disk.rename("snapshot.new", "snapshot")?;
    if bug != Bug::DirectoryNotSyncedAfterRename {
        disk.sync_dir("")?;
    }
    Ok(())
}

/// Gives the last record that was acknowledged.
fn script(disk: &SimDisk, bug: Bug) -> u8 {
    let mut acked = 0;
    let mut run = || -> io::Result<()> {
        let log = disk.open("log", Access::WRITE.new_file())?;
        if bug != Bug::DirectoryNotSyncedAtFirst {
            disk.sync_dir("")?;
        }
        let mut at = 0;
        for number in 1..=RECORDS {
            append(&log, at, number, bug, &mut acked)?;
            at += 1;
            if at == 3 {
                snapshot(disk, number, bug)?;
                log.set_length(0)?;
                log.sync_data()?;
                at = 0;
            }
        }
        Ok(())
    };
    if let Err(error) = run() {
        assert!(is_crash(&error), "no faults here: {error}");
    }
    acked
}

/// The last record found, or what is wrong.
fn recover(disk: &SimDisk, bug: Bug) -> Result<u8, &'static str> {
    let mut last = 0;
    if let Some(bytes) = disk.bytes("snapshot") {
        if bytes.len() != 2 * SECTOR || bytes != record(bytes[0]) || bytes[0] == 0 {
            return Err("snapshot is torn");
        }
        last = bytes[0];
    }
    for bytes in disk.bytes("log").unwrap_or_default().chunks(2 * SECTOR) {
        let whole = bug == Bug::NoChecksum || bytes == record(bytes[0]);
        if !whole || bytes[0] == 0 {
            break;
        }
        if bytes != record(bytes[0]) {
            return Err("a torn record passes");
        }
        if bytes[0] > last + 1 {
            return Err("a gap");
        }
        last = last.max(bytes[0]);
    }
    Ok(last)
}

/// Failures among all images, the first few words of each kind.
fn violations(bug: Bug) -> Vec<String> {
    let mut found = Vec::new();
    let seed = Seed(42);
    let images = every_crash(
        seed,
        &SimDisk::new(seed),
        |disk| script(disk, bug),
        |image, acked, words| match recover(image, bug) {
            Ok(last) if last < *acked => found.push(format!("{words}: lost {acked}, has {last}")),
            Ok(_) => {}
            Err(why) => found.push(format!("{words}: {why}")),
        },
    );
    assert!(images > 300, "every operation, three moments, five policies: {images}");
    found
}

#[test]
fn the_right_log_survives_every_crash() {
    assert_eq!(violations(Bug::None), Vec::<String>::new());
}

#[test]
fn every_bug_of_the_toy_log_is_caught() {
    for bug in [
        Bug::AckBeforeSync,
        Bug::SnapshotNotSynced,
        Bug::DirectoryNotSyncedAtFirst,
        Bug::DirectoryNotSyncedAfterRename,
        Bug::NoChecksum,
        Bug::TornSnapshotInPlace,
    ] {
        assert!(!violations(bug).is_empty(), "{bug:?} went unseen");
    }
}

#[test]
fn the_same_seed_finds_the_same_violations() {
    assert_eq!(violations(Bug::AckBeforeSync), violations(Bug::AckBeforeSync));
}

#[test]
fn a_kill_needs_no_sync() {
    for bug in [Bug::None, Bug::AckBeforeSync, Bug::SnapshotNotSynced] {
        let seed = Seed(7);
        let images = every_kill(
            seed,
            &SimDisk::new(seed),
            |disk| script(disk, bug),
            |image, acked, words| {
                let last = recover(image, bug).unwrap_or_else(|why| panic!("{words}: {why}"));
                assert!(last >= *acked, "{words}: lost {acked}, has {last}");
            },
        );
        assert!(images > 60, "every operation, three moments: {images}");
    }
}
