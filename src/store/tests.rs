use super::engine::{Engine, EngineResult, Rows};
use super::*;
use futures::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every engine must do. `reopen` closes and opens it, or returns it as it is when it has no disk.
fn conforms<E: Engine>(engine: E, reopen: impl Fn(E) -> E) {
    let (a, b) = (Table::Sequences, Table::Pins);
    assert_eq!(engine.get(a, b"k").unwrap(), None);
    assert!(engine.insert(a, b"k", b"1").unwrap(), "a first row is new");
    assert!(!engine.insert(a, b"k", b"2").unwrap(), "a second value is not a new row");
    assert_eq!(engine.get(a, b"k").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(engine.get(b, b"k").unwrap(), None, "tables are apart");
    for key in [&b"c"[..], b"a", b"b", b"\xff\xff", b"", b"\x00"] {
        engine.insert(b, key, key).unwrap();
    }
    let keys = |rows: Rows| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let order: Vec<Vec<u8>> = vec![vec![], vec![0], b"a".to_vec(), b"b".to_vec(), b"c".to_vec(), vec![0xff, 0xff]];
    assert_eq!(keys(engine.scan(b, 100, false).unwrap()), order);
    assert_eq!(keys(engine.scan(b, 2, false).unwrap()), order[..2]);
    assert_eq!(keys(engine.scan(b, 1, true).unwrap()), order[5..]);
    assert!(engine.scan(b, 0, false).unwrap().is_empty());
    assert!(engine.remove(b, b"a").unwrap());
    assert!(!engine.remove(b, b"a").unwrap(), "removed once only");
    assert_eq!((engine.rows(a).unwrap(), engine.rows(b).unwrap()), (1, 5));
    let large = vec![7; MAX_VALUE_BYTES];
    engine.insert(a, &[9; MAX_KEY_BYTES], &large).unwrap();
    engine.flush().unwrap();

    let engine = reopen(engine);
    assert_eq!(engine.get(a, b"k").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(engine.get(a, &[9; MAX_KEY_BYTES]).unwrap(), Some(large));
    assert_eq!((engine.rows(a).unwrap(), engine.rows(b).unwrap()), (2, 5));
}

#[test]
fn memory_engine_conforms() {
    conforms(memory::MemoryEngine::default(), |engine| engine);
}

#[test]
fn sled_engine_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || sled::open(&path).unwrap_or_else(|_| panic!("opens"));
    conforms(open(), |engine| {
        drop(engine);
        open()
    });
}

#[test]
fn a_full_table_refuses_new_rows_and_takes_old_ones() {
    let store = Store::temporary().unwrap();
    let (bound, _) = Table::Peers.bound();
    for n in 0..bound {
        store.put(Table::Peers, &n.to_be_bytes(), b"x").unwrap();
    }
    assert!(matches!(store.put(Table::Peers, b"one more", b"x"), Err(StoreError::Full { table: Table::Peers, .. })));
    store.put(Table::Peers, &7_usize.to_be_bytes(), b"y").unwrap();
    store.remove(Table::Peers, &7_usize.to_be_bytes()).unwrap();
    store.put(Table::Peers, b"one more", b"x").unwrap();
    assert_eq!(store.len(Table::Peers), bound);
}

#[test]
fn a_full_history_drops_its_oldest() {
    let store = Store::temporary().unwrap();
    let (bound, _) = Table::History.bound();
    for n in 0..=bound {
        store.put(Table::History, &n.to_be_bytes(), b"x").unwrap();
    }
    assert_eq!(store.len(Table::History), bound);
    assert_eq!(store.get(Table::History, &0_usize.to_be_bytes()).unwrap(), None);
    assert_eq!(store.scan_last(Table::History, 1).unwrap()[0].0, bound.to_be_bytes());
}

#[test]
fn refuses_rows_that_are_too_large() {
    let store = Store::temporary().unwrap();
    assert!(store.put(Table::Pins, &[0; MAX_KEY_BYTES + 1], b"").is_err());
    assert!(store.put(Table::Pins, b"k", &[0; MAX_VALUE_BYTES + 1]).is_err());
}

#[test]
fn a_second_process_is_refused_and_nothing_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let first = Store::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let Err(StoreError::Open { why, .. }) = Store::open(&path) else { panic!("opened twice") };
    assert_eq!(why, "another process is using it");
    assert!(first.set_aside.is_none());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn its_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("store");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_unwritable_place_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    assert!(matches!(Store::open(&file.join("store")), Err(StoreError::Open { .. })));
}

/// Damage of every kind, made after a clean close: a store that opens either has its rows or was set aside.
#[test]
fn a_damaged_store_is_set_aside_and_rebuilt() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 5] = [
        ("settings overwritten", |path| std::fs::write(path.join("conf"), b"nonsense").unwrap()),
        ("log of zeros", |path| overwrite(&path.join("db"), |bytes| bytes.fill(0))),
        ("log of noise", |path| overwrite(&path.join("db"), |bytes| bytes.iter_mut().for_each(|b| *b ^= 0x5a))),
        ("log cut to nothing", |path| std::fs::write(path.join("db"), b"").unwrap()),
        ("log in text", |path| std::fs::write(path.join("db"), b"hello\n".repeat(20_000)).unwrap()),
    ];
    let mut noticed = 0;
    for (what, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let filled = Store::open(&path).unwrap_or_else(|e| panic!("{e}")).store;
        for n in 0..500_u32 {
            filled.put(Table::Sequences, &n.to_be_bytes(), &[1; 100]).unwrap();
        }
        filled.shared.engine.flush().unwrap();
        drop(filled);
        for snapshot in std::fs::read_dir(&path).unwrap().flatten() {
            if snapshot.file_name().to_string_lossy().starts_with("snap") {
                std::fs::remove_file(snapshot.path()).unwrap();
            }
        }
        damage(&path);
        let opened = Store::open(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
        let Some(aside) = opened.set_aside else {
            assert_eq!(opened.store.len(Table::Sequences), 500, "{what}: rows lost without a word");
            continue;
        };
        noticed += 1;
        assert!(aside.file_name().unwrap().to_string_lossy().starts_with("store.damaged-"), "{what}");
        assert!(aside.exists() && opened.store.is_empty(Table::Sequences), "{what}");
        opened.store.put(Table::Sequences, b"k", b"v").unwrap();
        drop(opened.store);
        let again = Store::open(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(again.set_aside.is_none() && again.store.len(Table::Sequences) == 1, "{what}");
    }
    assert!(noticed >= 3, "{noticed} of the damages were noticed");
}

fn overwrite(path: &Path, change: impl Fn(&mut [u8])) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// An engine whose flush waits to be let go, to see who shares it.
#[derive(Default)]
struct SlowFlush {
    inner: memory::MemoryEngine,
    flushes: AtomicUsize,
    gate: Mutex<()>,
}

impl Engine for SlowFlush {
    fn get(&self, table: Table, key: &[u8]) -> EngineResult<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }
    fn insert(&self, table: Table, key: &[u8], value: &[u8]) -> EngineResult<bool> {
        self.inner.insert(table, key, value)
    }
    fn remove(&self, table: Table, key: &[u8]) -> EngineResult<bool> {
        self.inner.remove(table, key)
    }
    fn scan(&self, table: Table, limit: usize, descending: bool) -> EngineResult<Rows> {
        self.inner.scan(table, limit, descending)
    }
    fn rows(&self, table: Table) -> EngineResult<usize> {
        self.inner.rows(table)
    }
    fn flush(&self) -> EngineResult<()> {
        let _gate = self.gate.lock().unwrap();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn overlapping_commits_share_a_flush() {
    let engine = Arc::new(SlowFlush::default());
    let store = Store::over(engine.clone()).unwrap();
    let commits: Vec<_> = {
        let _closed = engine.gate.lock().unwrap();
        (0..100)
            .map(|_| {
                let store = store.clone();
                let mut commit = Box::pin(async move { store.commit().await });
                // The first poll queues the caller.
                assert!(commit.as_mut().now_or_never().is_none());
                commit
            })
            .collect()
    };
    for commit in commits {
        commit.await.unwrap();
    }
    assert!(engine.flushes.load(Ordering::SeqCst) <= 2, "{:?}", engine.flushes);
    store.commit().await.unwrap();
}

#[test]
fn only_the_latest_damaged_stores_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for name in ["store.damaged-1700000000", "store.damaged-1700000001", "store.damage", "other.damaged-1"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    for _ in 0..4 {
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("row"), "broken").unwrap();
        assert!(set_aside(&path).unwrap().join("row").exists(), "what was set aside now is kept");
    }
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("store.damaged-")).count(), MAX_SET_ASIDE, "{names:?}");
    assert!(names.len() == MAX_SET_ASIDE + 2 && !names.contains(&"store.damaged-1700000001".into()), "{names:?}");
}
