//! Serves one fresh volume on a unix socket, without control plane: `bare DIR SOCKET BYTES`.
#![allow(clippy::disallowed_methods, reason = "a bench harness")]
use catalogue::*;
use nbd::Refusal;
use segment_log::*;
use server::data::*;
use std::{path::Path, sync::Arc};
use units::*;
use world::{Disk, Pool, real::*, ring::Peer};
struct One(BranchId, VolumeId);
impl Exports for One {
    fn list(&self, _: &Peer) -> Vec<(String, String)> {
        vec![("vol".into(), String::new())]
    }
    fn open(&self, _: &Peer, name: &str) -> Result<Export, (Refusal, String)> {
        let at = name.strip_prefix("vol@seq:").and_then(|n| n.parse().ok()).and_then(Sequence::new);
        Ok(Export {
            volume: self.1,
            branch: self.0,
            at,
            read_only: at.is_some(),
            fixed: true,
            name: name.into(),
            description: String::new(),
        })
    }
    fn attach(&self, _: &Peer, _: &Export) -> Result<ClientId, block_device::BlockError> {
        Ok(ClientId(1))
    }
    fn detach(&self, _: &Peer, _: &Export, _: ClientId, _: bool) {}
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let pack = args.get(4).is_none_or(|a| a != "--no-pack");
    let size: u64 = args[3].parse().unwrap();
    std::fs::create_dir_all(&args[1]).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(Path::new(&args[1])).unwrap());
    let chance = Arc::new(RealChance);
    let master = seal::Key::from_bytes([7; 32]);
    let store = StoreId([9; 16]);
    let keyring = Arc::new(Keyring::default());
    let env = Arc::new(Environment {
        disk: disk.clone(),
        clock: Arc::new(RealClock),
        chance: chance.clone(),
        pool: Pool::new(64 << 20),
        master: master.clone(),
        store,
        keyring: keyring.clone(),
    });
    let mut catalogue = Catalogue::new();
    let (manifest, records) = if disk.list("manifest").unwrap().is_empty() {
        let mut manifest = manifest::Manifest::create(&*disk, &master, store, &*chance).unwrap();
        let new = NewVolume {
            name: VolumeName::parse("vol").unwrap(),
            key: VolumeKey([3; 32]),
            options: VolumeOptions::default(),
        };
        let when = When { sequence: Sequence::ZERO, time: Timestamp(0) };
        let (_, records) = catalogue.plan_create(new, LogicalBlock::B512, size, when).unwrap();
        let encoded: Vec<_> = records
            .iter()
            .map(|r| {
                let (kind, body) = r.encode();
                manifest::Record { kind, body }
            })
            .collect();
        manifest.append(&encoded).unwrap();
        (manifest, encoded)
    } else {
        manifest::Manifest::open(&*disk, &master, store, manifest::Mode::Write(&*chance)).unwrap()
    };
    for r in records.iter().filter(|r| r.kind >= 0x100) {
        catalogue.apply(CatalogueRecord::decode(r.kind, &r.body).unwrap()).unwrap();
    }
    volume::learn_keys(&catalogue, &keyring);
    let config = Config { pack, ..Config::default() };
    let log = segment_log::open(config, &env, manifest, &records, &[], Mode::Write).unwrap();
    let id = catalogue.find("vol").unwrap().id;
    let branch = catalogue.present(id).unwrap().id;
    let store = volume::Store::new(log, catalogue);
    let choice =
        if std::env::var_os("THREADS").is_some() { RingChoice::Threads } else { RingChoice::Uring };
    let running =
        start(store, Arc::new(RealClock), move || open_ring(choice).map(|r| r.0)).unwrap();
    let listener = listen_unix(Path::new(&args[2]), None).unwrap().into_listener();
    running
        .hub
        .visit(move |core| {
            core.set_exports(Arc::new(One(branch, id)));
            core.listen(listener);
        })
        .unwrap();
    println!("{:?}", running.join());
}
