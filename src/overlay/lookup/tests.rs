//! Lookups in virtual time.

use super::*;
use crate::overlay::sample::{Person, judge};
use crate::record;

struct Scene {
    person: Person,
    lookup: Lookup,
    events: mpsc::Receiver<LookupEvent>,
    start: Instant,
}

fn scene() -> Scene {
    let (person, start) = (Person::new(), Instant::now());
    let (sender, events) = mpsc::channel(16);
    let mut lookup = Lookup::new(person.keys(), sender, start);
    assert_eq!(lookup.begin(5, None, start), (0..4).map(Ask::Get).collect::<Vec<_>>());
    Scene { person, lookup, events, start }
}

impl Scene {
    /// A peer's answer takes the way of the actor: judged once for the same bytes.
    fn answer(&mut self, index: usize, peer: PeerId, bytes: &[u8], millis: u64) {
        let verdict = self.lookup.judged(bytes);
        let verdict = verdict.unwrap_or_else(|| record::validate(bytes, &self.lookup.keys[index], &judge(), None));
        self.lookup.answered(index, Some(peer), bytes, verdict, self.start + Duration::from_millis(millis));
    }

    fn found(&mut self) -> Option<ValidBundle> {
        match self.events.try_recv() {
            Ok(LookupEvent::Found(bundle)) => Some(bundle),
            _ => None,
        }
    }

    fn finish(&mut self, millis: u64) -> (LookupReport, Option<(ValidBundle, Vec<Ask>)>) {
        let repairs = self.lookup.finish(self.person.user.id, self.start + Duration::from_millis(millis));
        match self.events.try_recv() {
            Ok(LookupEvent::Done(report)) => (report, repairs),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn tells_the_first_answer_at_once_and_only_fresher_ones_after() {
    let mut scene = scene();
    let (stale, holder, empty, again) = (PeerId::random(), PeerId::random(), PeerId::random(), PeerId::random());
    let (old, new) = (scene.person.bytes(1, 0), scene.person.bytes(2, 0));
    scene.answer(0, stale, &old, 10);
    assert_eq!(scene.found(), Some(scene.person.bundle(1)));
    scene.answer(1, holder, &new, 20);
    assert_eq!(scene.found(), Some(scene.person.bundle(2)));
    scene.answer(2, again, &old, 30);
    assert_eq!(scene.found(), None);
    assert!(!scene.lookup.should_stop(0, scene.start + Duration::from_millis(1_509)));
    assert!(scene.lookup.should_stop(0, scene.start + Duration::from_millis(1_510)), "settled");
    (0..4).for_each(|index| scene.lookup.read_ended(index, [empty]));
    assert!(scene.lookup.is_over());
    let (report, repairs) = scene.finish(1_600);
    assert_eq!((report.asked, report.valid, report.empty, report.took_ms), (4, 3, 1, 1_600));
    assert!(report.refused.is_empty());
    let (merged, asks) = repairs.unwrap();
    assert_eq!(merged, scene.person.bundle(2));
    let put = |index, peers: &[PeerId]| Ask::Put { index, peers: peers.to_vec() };
    let expected = [put(0, &[stale, empty]), put(1, &[empty]), put(2, &[again, empty]), put(3, &[empty])];
    assert_eq!(asks, expected, "who is behind under a key learns");
}

#[test]
fn gives_up_when_enough_servers_had_nothing_or_time_is_over() {
    let mut scene = scene();
    let at = |seconds| scene.start + Duration::from_secs(seconds);
    assert!(!scene.lookup.should_stop(100, at(2)), "slow ones are waited for");
    assert!(!scene.lookup.should_stop(ENOUGH_EMPTY - 1, at(14)));
    assert!(scene.lookup.should_stop(ENOUGH_EMPTY, at(3)));
    assert!(scene.lookup.should_stop(0, at(15)));
    scene.events.close();
    assert!(scene.lookup.should_stop(0, at(0)), "nobody listens");
}

#[test]
fn waits_for_a_first_peer_and_answers_from_what_the_node_holds() {
    let (person, start) = (Person::new(), Instant::now());
    let (sender, mut events) = mpsc::channel(16);
    let mut lookup = Lookup::new(person.keys(), sender.clone(), start);
    assert!(lookup.begin(0, None, start).is_empty());
    assert_eq!(lookup.begin(0, None, start + FIRST_PEER).len(), 4);
    let mut lookup = Lookup::new(person.keys(), sender, start);
    assert_eq!(lookup.begin(0, Some(person.bundle(0)), start).len(), 4);
    assert!(matches!(events.try_recv(), Ok(LookupEvent::Found(_))));
}

#[test]
fn a_receiver_that_is_slow_gets_the_freshest_and_the_report() {
    let (person, start) = (Person::new(), Instant::now());
    let (sender, mut events) = mpsc::channel(1);
    let mut lookup = Lookup::new(person.keys(), sender, start);
    lookup.begin(5, None, start);
    for sequence in 0..5 {
        lookup.answered(0, Some(PeerId::random()), &[], Ok(person.bundle(sequence)), start);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        lookup.finish(person.user.id, start);
        let mut told = Vec::new();
        while let Some(LookupEvent::Found(bundle)) = events.recv().await {
            told.push(bundle);
        }
        assert_eq!(told, [person.bundle(0), person.bundle(4)]);
    });
}

/// The golden vectors as a reader meets them: each forged answer comes with an honest one, before or after it.
#[test]
fn every_forged_variant_of_the_vectors_is_refused_by_a_reader() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/bundles-bad.json")).unwrap();
    let mut seen = 0;
    for vector in vectors.as_array().unwrap().iter().filter(|vector| vector["held"].is_null()) {
        let name = vector["name"].as_str().unwrap();
        let bytes = |field: &str| data_encoding::HEXLOWER.decode(vector[field].as_str().unwrap().as_bytes()).unwrap();
        let judge = record::Judge {
            overlay: crate::wire::OverlayId(bytes("overlay_id").try_into().unwrap()),
            scope: match vector["scope"] == "any" {
                true => crate::wire::AddressScope::Any,
                false => crate::wire::AddressScope::Global,
            },
            now: crate::clock::UnixMillis(vector["now_ms"].as_u64().unwrap()),
        };
        let forged = bytes("bytes");
        let verdict = record::validate(&forged, &RecordKey(bytes("key").try_into().unwrap()), &judge, None);
        assert_eq!(verdict.as_ref().err().map(|reason| format!("{reason:?}")).as_deref(), vector["verdict"].as_str());
        let mut scene = scene();
        let (liar, holder, late) = (PeerId::random(), PeerId::random(), PeerId::random());
        let honest = scene.person.bytes(0, 0);
        scene.lookup.answered(0, Some(liar), &forged, verdict.clone(), scene.start);
        assert!(scene.found().is_none(), "{name}: believed");
        scene.answer(1, holder, &honest, 10);
        assert_eq!(scene.found(), Some(scene.person.bundle(0)), "{name}");
        scene.lookup.answered(2, Some(late), &forged, verdict, scene.start);
        assert!(scene.found().is_none(), "{name}: believed");
        let (report, repairs) = scene.finish(100);
        assert_eq!((report.valid, report.refused.len()), (1, 2), "{name}");
        assert!(repairs.unwrap().1.iter().all(|ask| !matches!(ask, Ask::Put { peers, .. } if peers.contains(&liar))));
        seen += 1;
    }
    assert!(seen > 80, "{seen} forged variants");
}
