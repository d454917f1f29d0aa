//! What a life may meet: faults of the disk, of the clock, lack of room; and how it ends.

use segment_log::Config;
use sim_world::{CutPolicy, DirtyPages, Fault, Rng, Rule, SimDisk};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Power is cut between two operations.
    PowerCut(CutPolicy),
    /// Power is cut amid an operation that is so many away from the start of the life.
    PowerCutAmid(CutPolicy, u64),
    /// The process is killed; the disk stays.
    Kill,
    /// All requests are answered, then nothing more comes, then power goes.
    Rest,
}

/// A life's faults.
#[expect(clippy::struct_excessive_bools, reason = "what may go wrong goes wrong by itself")]
#[derive(Clone, Debug)]
pub struct Menu {
    /// How it ends.
    pub end: End,
    /// Rules for the disk.
    pub rules: Vec<Rule>,
    /// Reads may fail with an error.
    pub reads_fail: bool,
    /// Writes and flushes may fail with an error.
    pub writes_fail: bool,
    /// What was answered but not flushed may be lost even by a kill.
    pub syncs_fail: bool,
    /// Only so much room beyond what is used.
    pub room_bytes: Option<u64>,
    /// The wall clock is set about.
    pub clock: bool,
    /// How the log works.
    pub config: Config,
    /// Steps of the clients.
    pub steps: u64,
    /// Share of long writes, in a million.
    pub long: u32,
    /// Recovery is crashed once at this operation.
    pub crash_in_start: Option<u64>,
}

impl Menu {
    /// Draws one; half of them meet the favourite fault, if there is one, in a short life.
    pub fn draw(rng: &mut Rng, favourite: Option<u64>) -> Self {
        let favourite = favourite.filter(|_| rng.coin());
        let policy = *rng.pick(&CutPolicy::EVERY);
        let end = match rng.below(8) {
            0..3 => End::PowerCut(policy),
            3..5 => End::PowerCutAmid(policy, rng.below(200)),
            5..7 => End::Kill,
            _ => End::Rest,
        };
        let config = Config {
            pack: rng.below(4) > 0,
            segment_bytes: *rng.pick(&[512 << 10, 1 << 20, 2 << 20]),
            images: rng.index(3),
            pool_files: rng.index(4),
            backlog_segments: 1 + rng.index(6),
            reserve_bytes: 8 << 20,
            ..Config::default()
        };
        // Follows from what was drawn: one number more would make another run of every seed.
        let manifest_bytes = [1 << 10, 8 << 10, 64 << 10, 256 << 10][config.pool_files];
        let config = Config { manifest_bytes, ..config };
        let mut menu = Self {
            end,
            rules: Vec::new(),
            reads_fail: false,
            writes_fail: false,
            syncs_fail: false,
            room_bytes: None,
            clock: false,
            config,
            steps: 20 + rng.below(300),
            long: *rng.pick(&[0, 20_000, 200_000]),
            crash_in_start: (rng.below(4) == 0).then(|| rng.below(30)),
        };
        if favourite.is_some() {
            menu.steps = 10 + rng.below(60);
        }
        let fault = rng.below(20);
        menu.take_fault(rng, favourite.unwrap_or(fault));
        if menu.syncs_fail && menu.end == End::Kill {
            // After a failed sync the cache shows what the disk will never hold, and no sync tells: only
            // a reboot does. (Our segments are written round the cache.)
            menu.end = End::PowerCut(policy);
        }
        menu
    }

    /// Faults by their number; from 14 to 19 none.
    fn take_fault(&mut self, rng: &mut Rng, fault: u64) {
        let prefix =
            *rng.pick(&["log/", "log/", "log/", "bulk/", "pack/", "run/", "manifest/", ""]);
        let often = *rng.pick(&[300, 3_000, 30_000]);
        match fault {
            0 => {
                self.rules.push(Rule::chance(Fault::WriteError, often).on(prefix));
                self.writes_fail = true;
            }
            1 | 10 => {
                self.rules.push(Rule::chance(Fault::ShortWrite, often * 10).on(prefix));
                self.writes_fail = true;
            }
            2 | 13 => {
                let pages = *rng.pick(&[DirtyPages::StayVisible, DirtyPages::Vanish]);
                let fault = Fault::SyncError(pages);
                self.rules.push(Rule::nth(fault, rng.below(20)).on(prefix));
                (self.writes_fail, self.syncs_fail) = (true, true);
                self.reads_fail = pages == DirtyPages::Vanish;
            }
            3 => {
                self.rules.push(Rule::chance(Fault::ReadError, often).on(prefix));
                (self.reads_fail, self.writes_fail) = (true, true);
            }
            4 => {
                self.rules.push(Rule::chance(Fault::MisdirectedRead, often).on(prefix));
                (self.reads_fail, self.writes_fail) = (true, true);
            }
            5 => self.room_bytes = Some(48 << 20),
            6 => self.rules.push(Rule::chance(Fault::Slow(50_000_000), often * 10)),
            7 | 11 => self.clock = true,
            9 | 12 => {
                self.rules.push(Rule::chance(Fault::NoSpace, often).on(prefix));
                self.writes_fail = true;
            }
            8 => {
                self.rules.push(Rule::chance(Fault::NameError, often * 10));
                self.writes_fail = true;
            }
            // Not drawn, but asked for when a planted bug is hunted.
            20 => {
                let prefix = *rng.pick(&["log/", "pack/"]);
                self.rules.push(Rule::chance(Fault::MisdirectedRead, 200_000).on(prefix));
                (self.reads_fail, self.writes_fail) = (true, true);
            }
            _ => {}
        }
    }

    /// Puts the rules in force.
    pub fn inject(&self, disk: &SimDisk) {
        for rule in &self.rules {
            disk.inject(rule.clone());
        }
        let room = self.room_bytes.map(|room| room + used_bytes(disk));
        disk.set_capacity_bytes(room);
    }
}

fn used_bytes(disk: &SimDisk) -> u64 {
    use world::Disk as _;
    let space = disk.space().expect("the simulated disk knows its room");
    space.total_bytes - space.free_bytes
}
