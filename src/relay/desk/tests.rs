use super::*;
use std::net::Ipv4Addr;

const WALL: UnixMillis = UnixMillis(1_795_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn limits() -> Limits {
    Limits {
        allocations: 100,
        per_peer: 4,
        per_network: 8,
        bits_per_second: 256_000,
        bytes_per_month: 1 << 40,
        granted: Duration::from_secs(7_200),
    }
}

fn desk(media: MediaFor, limits: Limits) -> Desk {
    Desk::new(media, limits, None, WALL)
}

/// Node `n` in network `network`.
fn asker(n: u16, network: u16, member: bool) -> Asker {
    let mut node = [0; 32];
    node[..2].copy_from_slice(&n.to_be_bytes());
    let [a, b] = network.to_be_bytes();
    Asker { node: NodeKey(node), network: Some(Subnet::of(Ipv4Addr::new(11, a, b, 1).into())), member }
}

fn call(n: u16) -> CallId {
    let mut call = [0; 16];
    call[..2].copy_from_slice(&n.to_be_bytes());
    call
}

#[test]
fn only_the_entitled_are_served() {
    let now = Instant::now();
    let ask = |media, member| desk(media, limits()).allocate(&asker(1, 1, member), call(1), 60, now, WALL);
    assert_eq!(ask(MediaFor::Off, true), Err(Refusal::Off));
    assert_eq!(ask(MediaFor::Members, false), Err(Refusal::NotEntitled));
    assert!(ask(MediaFor::Members, true).is_ok() && ask(MediaFor::Anyone, false).is_ok());
}

#[test]
fn asking_again_gives_the_same_and_another_call_another() {
    let now = Instant::now();
    let mut desk = desk(MediaFor::Anyone, limits());
    let who = asker(1, 1, false);
    assert_eq!(desk.allocate(&who, call(1), 600, now, WALL), Ok(Granted::New(Duration::from_secs(600))));
    let promised = desk.budget().promised();
    let later = now + Duration::from_secs(100);
    assert_eq!(desk.allocate(&who, call(1), 600, later, WALL), Ok(Granted::Again(Duration::from_secs(500))));
    assert_eq!((desk.len(), desk.budget().promised()), (1, promised));
    assert!(matches!(desk.allocate(&who, call(2), 600, later, WALL), Ok(Granted::New(_))));
    assert_eq!(desk.holders(), (1, 1));
}

#[test]
fn a_node_a_network_strangers_and_all_have_their_bounds() {
    let now = Instant::now();
    let mut desk = desk(MediaFor::Anyone, limits());
    let mut ask = |who: Asker, n| desk.allocate(&who, call(n), 60, now, WALL).map(|_| ());
    for n in 0..4 {
        assert_eq!(ask(asker(1, 1, false), n), Ok(()));
    }
    assert_eq!(ask(asker(1, 1, false), 9), Err(Refusal::PeerFull));
    assert_eq!(ask(asker(1, 2, false), 9), Err(Refusal::PeerFull), "wherever it is");
    for n in 0..4 {
        assert_eq!(ask(asker(2, 1, false), n), Ok(()));
    }
    assert_eq!(ask(asker(3, 1, false), 0), Err(Refusal::NetworkFull));
    for n in 0..42 {
        assert_eq!(ask(asker(10 + n, 10 + n, false), 0), Ok(()));
    }
    assert_eq!(ask(asker(60, 60, false), 0), Err(Refusal::Full), "half is for members");
    for n in 0..50 {
        assert_eq!(ask(asker(100 + n, 100 + n, true), 0), Ok(()));
    }
    assert_eq!(ask(asker(200, 200, true), 0), Err(Refusal::Full));
}

#[test]
fn what_was_granted_is_never_cut_and_renewed_when_full() {
    let mut now = Instant::now();
    let mut desk = desk(MediaFor::Anyone, Limits { allocations: 1, ..limits() });
    let (who, key) = (asker(1, 1, true), (asker(1, 1, true).node, call(1)));
    desk.allocate(&who, call(1), 10_000, now, WALL).unwrap();
    assert_eq!(desk.allocate(&asker(2, 2, true), call(1), 60, now, WALL), Err(Refusal::Full));
    // A call of a day, renewed each hour.
    for _ in 0..22 {
        now += HOUR;
        assert!(desk.over(now).is_empty());
        assert_eq!(desk.renew(&key, 7_200, now, WALL), Ok(2 * HOUR));
    }
    now += HOUR;
    assert_eq!(desk.renew(&key, 7_200, now, WALL), Err(Refusal::TooLong), "it ends where it was to end");
    assert!(desk.over(now + HOUR - Duration::from_secs(1)).is_empty());
    assert_eq!(desk.over(now + HOUR), [key]);
    assert!(desk.release(&key) && !desk.release(&key));
    assert_eq!(desk.renew(&key, 60, now, WALL), Err(Refusal::Unknown));
    assert_eq!(desk.budget().promised(), 0);
}

#[test]
fn a_renewal_never_shortens() {
    let now = Instant::now();
    let mut desk = desk(MediaFor::Anyone, limits());
    let key = (asker(1, 1, true).node, call(1));
    desk.allocate(&asker(1, 1, true), call(1), 7_200, now, WALL).unwrap();
    assert_eq!(desk.renew(&key, 60, now, WALL), Ok(2 * HOUR));
    assert_eq!(desk.renew(&key, 0, now + HOUR, WALL), Ok(HOUR));
    assert_eq!(desk.renew(&(key.0, call(2)), 60, now, WALL), Err(Refusal::Unknown), "another's is not its own");
}

#[test]
fn the_month_is_never_exceeded() {
    let mut now = Instant::now();
    // Ten calls of ten minutes at full rate.
    let month = 10 * 600 * 32_000;
    let mut desk = desk(MediaFor::Anyone, Limits { bytes_per_month: month, allocations: 1_000, ..limits() });
    let (mut granted, mut refused) = (Vec::new(), 0);
    for n in 0..1_000 {
        match desk.allocate(&asker(n, n, true), call(1), 600, now, WALL) {
            Ok(_) => granted.push((asker(n, n, true).node, call(1))),
            Err(why) => {
                assert_eq!(why, Refusal::MonthSpent);
                refused += 1;
            }
        }
    }
    assert_eq!((granted.len(), refused), (8, 992), "as many as surely fit into nine tenths");
    // They send all that they may, and go on as long as there is anything.
    let mut renewals = 0;
    for _ in 0..60 {
        now += Duration::from_secs(60);
        for key in &granted {
            if desk.over(now).contains(key) {
                continue;
            }
            desk.sent(key, 60 * 32_000, WALL);
            renewals += usize::from(desk.renew(key, 600, now, WALL).is_ok());
        }
    }
    assert!(renewals > 0 && desk.budget().spent() <= month, "{} of {month}", desk.budget().spent());
    assert!(desk.budget().spent() > month / 10 * 9);
}

#[test]
fn who_asks_too_often_waits_and_shuts_nobody_out() {
    let now = Instant::now();
    let mut desk = desk(MediaFor::Anyone, limits());
    let greedy = asker(1, 1, false);
    assert_eq!((0..1_000).filter(|_| desk.knock(&greedy, now).is_ok()).count(), 20);
    assert_eq!(desk.knock(&asker(2, 2, false), now), Ok(()));
    // A thousand names in one network.
    let named = (0..1_000).filter(|n| desk.knock(&asker(1_000 + n, 3, false), now).is_ok()).count();
    assert_eq!(named, 60);
    assert_eq!(desk.knock(&asker(3, 4, false), now), Ok(()));
}

#[test]
fn seconds_are_taken_into_bounds() {
    let now = Instant::now();
    for (asked, given) in [(0, 60), (61, 61), (7_200, 7_200), (u32::MAX, 7_200)] {
        let granted = desk(MediaFor::Anyone, limits()).allocate(&asker(1, 1, false), call(1), asked, now, WALL);
        assert_eq!(granted, Ok(Granted::New(Duration::from_secs(given))));
    }
}
