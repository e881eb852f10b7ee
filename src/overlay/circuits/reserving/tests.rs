use super::*;
use proptest::prelude::*;

fn at(ip: [u8; 2]) -> Multiaddr {
    format!("/ip4/{}.{}.1.1/tcp/4001", ip[0], ip[1]).parse().unwrap()
}

/// Relays in networks of their own, or of one.
fn with(networks: &[[u8; 2]], now: Instant) -> (Reserving, Vec<PeerId>) {
    let mut reserving = Reserving::default();
    reserving.want(WANTED);
    let peers: Vec<PeerId> = networks.iter().map(|_| PeerId::random()).collect();
    for (peer, network) in peers.iter().zip(networks) {
        reserving.known(*peer, &at(*network), now);
    }
    (reserving, peers)
}

/// All that is to be done now, with relays that say yes at once.
fn grant(reserving: &mut Reserving, now: Instant) -> Vec<PeerId> {
    let mut asked = Vec::new();
    while let Some(step) = reserving.poll(now, |_| true) {
        let Step::Reserve(through) = step else { panic!("{step:?}") };
        reserving.asked(&through.relay, ListenerId::next(), now);
        assert!(reserving.granted(&through.relay, now));
        asked.push(through.relay);
    }
    asked
}

fn listener(reserving: &Reserving, peer: &PeerId) -> ListenerId {
    match reserving.relays[peer].state {
        State::Held { listener, .. } | State::Asked { listener, .. } => listener,
        State::Idle | State::Connecting { .. } => panic!("no listener"),
    }
}

#[test]
fn two_in_different_networks_though_others_are_nearer() {
    let now = Instant::now();
    let (mut reserving, peers) = with(&[[8, 8], [8, 8], [8, 8], [9, 9]], now);
    for (n, peer) in (0..).zip(&peers) {
        reserving.heard(peer, Duration::from_millis(10 + 100 * n), now);
    }
    assert_eq!(grant(&mut reserving, now), [peers[0], peers[3]]);
    assert_eq!(reserving.held().len(), 2);
    assert!(reserving.held()[0].address().to_string().ends_with("/p2p-circuit"));
}

#[test]
fn a_lost_one_is_replaced_in_the_same_moment_and_comes_back_later() {
    let now = Instant::now();
    let (mut reserving, peers) = with(&[[8, 8], [9, 9], [7, 7]], now);
    let first = grant(&mut reserving, now);
    assert!(reserving.closed(listener(&reserving, &first[0]), now));
    assert_eq!(reserving.held().len(), 1);
    let third = *peers.iter().find(|peer| !first.contains(peer)).unwrap();
    assert_eq!(grant(&mut reserving, now), [third]);
    assert!(reserving.closed(listener(&reserving, &third), now));
    assert!(grant(&mut reserving, now).is_empty(), "nobody is left for the moment");
    assert_eq!(grant(&mut reserving, now + AGAIN).len(), 1);
}

#[test]
fn who_is_not_connected_is_connected_to_first_and_given_up_in_time() {
    let now = Instant::now();
    let (mut reserving, peers) = with(&[[8, 8]], now);
    assert!(matches!(reserving.poll(now, |_| false), Some(Step::Connect(through)) if through.relay == peers[0]));
    assert_eq!(reserving.poll(now, |_| false), None);
    assert!(matches!(reserving.poll(now, |_| true), Some(Step::Reserve(_))));
    assert_eq!(reserving.poll(now + CONNECTING, |_| false), None, "given up");
    assert_eq!(reserving.poll(now + CONNECTING + AGAIN / 2, |_| false), None);
    assert!(reserving.poll(now + CONNECTING + AGAIN, |_| false).is_some());
}

#[test]
fn a_reservation_on_its_way_is_never_given_back_and_one_that_does_not_come_not_waited_for() {
    let now = Instant::now();
    let (mut reserving, peers) = with(&[[8, 8], [9, 9], [7, 7]], now);
    for _ in 0..2 {
        let Some(Step::Reserve(through)) = reserving.poll(now, |_| true) else { panic!() };
        reserving.asked(&through.relay, ListenerId::next(), now);
    }
    assert_eq!(reserving.poll(now, |_| true), None);
    assert!(matches!(reserving.poll(now + ANSWERING, |_| true), Some(Step::Reserve(_))), "the third");
    reserving.want(0);
    let late = *peers.iter().find(|p| matches!(reserving.relays[p].state, State::Asked { .. })).unwrap();
    let Step::Reserve(_) = (match reserving.poll(now + ANSWERING, |_| true) {
        Some(step) => step,
        None => panic!("the third is connected to"),
    }) else {
        panic!("nothing is given back that is on its way")
    };
    let own = listener(&reserving, &late);
    assert!(reserving.granted(&late, now + ANSWERING));
    let released = std::iter::from_fn(|| reserving.poll(now + ANSWERING, |_| false)).collect::<Vec<_>>();
    assert_eq!(released, [Step::Release(own)]);
    assert!(!reserving.closed(own, now), "that was meant");
}

#[test]
fn the_book_is_bounded_and_keeps_who_is_used() {
    let now = Instant::now();
    let (mut reserving, _) = with(&[[8, 8], [9, 9]], now);
    let used = grant(&mut reserving, now);
    for n in 0..1_000u32 {
        reserving.known(PeerId::random(), &at([7, (n % 250) as u8]), now + Duration::from_secs(n.into()));
    }
    assert_eq!(reserving.relays.len(), MAX_KNOWN);
    reserving.retired(&used[0]);
    assert!(reserving.held().iter().all(|through| used.contains(&through.relay)) && reserving.held().len() == 2);
}

#[test]
fn who_wants_one_gives_the_younger_back() {
    let now = Instant::now();
    let (mut reserving, _) = with(&[[8, 8], [9, 9]], now);
    grant(&mut reserving, now);
    let older = reserving.held()[0].clone();
    reserving.want(1);
    assert!(matches!(reserving.poll(now, |_| true), Some(Step::Release(_))));
    assert_eq!((reserving.poll(now, |_| true), reserving.held()), (None, vec![older]));
}

#[test]
fn who_answered_pings_and_answers_no_more_is_hung_up_once() {
    let now = Instant::now();
    let (mut reserving, _) = with(&[[8, 8], [9, 9]], now);
    let [talks, mute] = grant(&mut reserving, now)[..] else { panic!() };
    let pinged = now + QUICK;
    reserving.heard(&talks, Duration::from_millis(20), now);
    reserving.heard(&talks, Duration::from_millis(20), pinged);
    assert_eq!(reserving.poll(pinged + SILENT - Duration::from_millis(1), |_| true), None);
    assert_eq!(reserving.poll(pinged + SILENT, |_| true), Some(Step::HangUp(talks)));
    assert_eq!(
        reserving.poll(pinged + SILENT, |_| true),
        None,
        "and {mute}, who never answered one, may not speak ping"
    );
    assert_eq!(reserving.held().len(), 2, "until the connection is closed");
}

#[test]
fn who_never_answered_steadily_is_not_missed() {
    let mut now = Instant::now();
    let (mut reserving, _) = with(&[[8, 8], [9, 9]], now);
    let [stutters, _] = grant(&mut reserving, now)[..] else { panic!() };
    let answer = |reserving: &mut Reserving, at| reserving.heard(&stutters, Duration::from_millis(20), at);
    for _ in 0..5 {
        // When the stream of its pings is new, and once more when that is found broken.
        answer(&mut reserving, now);
        answer(&mut reserving, now + Duration::from_millis(100));
        now += QUICK + Duration::from_secs(20);
        assert_eq!(reserving.poll(now, |_| true), None);
    }
    answer(&mut reserving, now);
    now += QUICK;
    answer(&mut reserving, now);
    assert_eq!(reserving.poll(now + SILENT, |_| true), Some(Step::HangUp(stutters)), "it has come to answer all");
}

proptest! {
    /// Whatever relays do: no third is asked while two are held or about to be, and time heals.
    #[test]
    fn never_more_than_wanted_and_in_the_end_enough(events in proptest::collection::vec((0usize..5, 0u8..6), 0..200)) {
        let start = Instant::now();
        let mut now = start;
        let (mut reserving, peers) = with(&[[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]], now);
        for (n, event) in events {
            let peer = peers[n];
            match event {
                0 => now += Duration::from_secs(3),
                1 => { reserving.granted(&peer, now); }
                2 => reserving.failed(&peer, now),
                3 => {
                    if let State::Held { listener, .. } | State::Asked { listener, .. } = reserving.relays[&peer].state {
                        reserving.closed(listener, now);
                    }
                }
                4 => now += Duration::from_millis(100),
                _ => reserving.known(peer, &at([8, 8]), now),
            }
            loop {
                let held = reserving.held().len();
                let enough = reserving.relays.values().filter(|known| known.counts(now)).count() >= WANTED;
                match reserving.poll(now, |_| true) {
                    None => break,
                    Some(Step::Reserve(through)) => {
                        prop_assert!(!enough, "asked one more");
                        reserving.asked(&through.relay, ListenerId::next(), now);
                    }
                    // Granted so late that others were asked.
                    Some(Step::Release(_)) => prop_assert!(held > WANTED, "given back one too few"),
                    Some(step) => prop_assert!(false, "{step:?}"),
                }
            }
        }
        // Those that never answered are ended by the crate.
        for peer in &peers {
            if let State::Asked { listener, .. } = reserving.relays[peer].state {
                reserving.closed(listener, now);
            }
        }
        now += AGAIN_AT_MOST;
        grant(&mut reserving, now);
        prop_assert!(reserving.held().len() >= WANTED);
    }
}
