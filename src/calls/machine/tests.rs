use super::*;
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const RING: Duration = Duration::from_secs(60);

fn device(n: u8, priority: u32) -> VerifiedDevice {
    VerifiedDevice {
        node: NodeKey([n; 32]),
        sequence: 1,
        priority,
        addresses: Vec::new(),
        expires_at: UnixMillis(u64::MAX),
        dnd: false,
    }
}

fn call(contacts: &[u64], locate: bool, now: Instant) -> Call {
    let contacts = contacts.iter().map(|n| ContactId(*n)).collect();
    Call::new(Plan::Ring { contacts, locate }, RING, now)
}

fn effects(call: &mut Call) -> Vec<Effect> {
    std::iter::from_fn(|| call.poll_effect()).collect()
}

fn cause(status: u16) -> Cause {
    Cause { status, words: String::new() }
}

fn sdp() -> Bytes {
    Bytes::from_static(b"v=0")
}

fn ending(effects: &[Effect]) -> &Ending {
    let Some(Effect::Finished(ending)) = effects.last() else { panic!("not finished: {effects:?}") };
    ending
}

fn dialled(effects: &[Effect]) -> Vec<Branch> {
    let branch = |effect: &Effect| match effect {
        Effect::Dial { branch, .. } => Some(*branch),
        _ => None,
    };
    effects.iter().filter_map(branch).collect()
}

#[test]
fn the_first_answer_wins_and_the_others_are_told_so() {
    let now = Instant::now();
    let mut call = call(&[1, 2], true, now);
    assert_eq!(dialled(&effects(&mut call)), [Branch(0), Branch(1)]);
    call.handle(Event::Progress { branch: Branch(0), status: 180, sdp: None }, now);
    call.handle(Event::Progress { branch: Branch(1), status: 180, sdp: None }, now);
    assert_eq!(effects(&mut call), [Effect::Ring { status: 180, early: None }], "the caller hears it once");
    call.handle(Event::Answered { branch: Branch(1), sdp: sdp() }, now);
    assert_eq!(
        effects(&mut call),
        [
            Effect::StopLocate,
            Effect::HangUp { branch: Branch(0), cause: cause::elsewhere() },
            Effect::FreeMedia(Side::Callee(Branch(0))),
            Effect::Answer { branch: Branch(1), sdp: sdp() },
        ]
    );
    call.handle(Event::Answered { branch: Branch(0), sdp: sdp() }, now);
    assert_eq!(effects(&mut call), [Effect::HangUp { branch: Branch(0), cause: cause::elsewhere() }]);
    call.handle(Event::Ended { side: Side::Callee(Branch(1)), cause: None }, now + RING);
    let last = effects(&mut call);
    assert_eq!(last[0], Effect::EndCaller(cause::ordinary()));
    assert_eq!(ending(&last).talked, Some(RING));
}

#[test]
fn a_hang_up_during_the_lookup_stops_it_and_nothing_rings_later() {
    let now = Instant::now();
    let mut call = call(&[], true, now);
    assert_eq!(effects(&mut call), [Effect::Locate]);
    call.handle(Event::Ended { side: Side::Caller, cause: None }, now);
    let last = effects(&mut call);
    assert_eq!(last[0], Effect::StopLocate);
    assert_eq!(ending(&last).cause.status, 487);
    call.handle(Event::Found { devices: vec![device(1, 0)] }, now);
    call.handle(Event::Located(Ok(())), now);
    assert_eq!(effects(&mut call), []);
}

#[test]
fn a_fresher_binding_rings_the_new_devices_too_and_lower_priorities_wait() {
    let now = Instant::now();
    let mut call = call(&[], true, now);
    call.handle(Event::Found { devices: vec![device(1, 0), device(2, 1)] }, now);
    assert_eq!(dialled(&effects(&mut call)), [Branch(0)]);
    call.handle(Event::Found { devices: vec![device(3, 0), device(1, 0)] }, now);
    assert_eq!(dialled(&effects(&mut call)), [Branch(1)]);
    call.handle(Event::Located(Ok(())), now);
    let due = call.poll_timeout().unwrap();
    assert_eq!(due, now + Duration::from_secs(5));
    call.handle_timeout(due);
    assert_eq!(dialled(&effects(&mut call)), [Branch(2)]);
}

#[test]
fn lower_priorities_come_at_once_when_the_first_are_gone() {
    let now = Instant::now();
    let mut call = call(&[], true, now);
    call.handle(Event::Found { devices: vec![device(1, 0), device(2, 1)] }, now);
    effects(&mut call);
    call.handle(Event::Failed { branch: Branch(0), cause: cause(480) }, now);
    assert_eq!(dialled(&effects(&mut call)), [Branch(1)]);
}

#[test]
fn the_best_failure_goes_to_the_caller_and_a_decline_ends_all() {
    let now = Instant::now();
    let mut busy = call(&[1, 2], false, now);
    busy.handle(Event::Failed { branch: Branch(0), cause: cause(486) }, now);
    busy.handle(Event::Failed { branch: Branch(1), cause: cause(480) }, now);
    assert_eq!(ending(&effects(&mut busy)).cause.status, 486);
    let mut declined = call(&[1, 2], false, now);
    declined.handle(Event::Failed { branch: Branch(0), cause: cause(603) }, now);
    let last = effects(&mut declined);
    assert!(last.contains(&Effect::HangUp { branch: Branch(1), cause: cause::declined_elsewhere() }));
    assert_eq!(ending(&last).cause.status, 603);
}

#[test]
fn words_for_nobody_there() {
    let now = Instant::now();
    assert_eq!(ending(&effects(&mut call(&[], false, now))).cause, cause::no_phone());
    let mut away = call(&[], true, now);
    away.handle(Event::Located(Err(LocateError::NotFound)), now);
    assert_eq!(ending(&effects(&mut away)).cause, cause::not_online());
    let mut cut = call(&[], true, now);
    cut.handle(Event::Located(Err(LocateError::NoOverlay)), now);
    assert_eq!(ending(&effects(&mut cut)).cause.status, 503);
    let mut quiet = call(&[], true, now);
    quiet.handle(Event::Found { devices: vec![VerifiedDevice { dnd: true, ..device(1, 0) }] }, now);
    quiet.handle(Event::Located(Ok(())), now);
    assert_eq!(ending(&effects(&mut quiet)).cause, cause::do_not_disturb());
}

#[test]
fn ringing_ends_after_the_ring_timeout_counted_from_the_first_ring() {
    let now = Instant::now();
    let mut call = call(&[1], false, now);
    let rang = now + Duration::from_secs(3);
    call.handle(Event::Progress { branch: Branch(0), status: 180, sdp: None }, rang);
    effects(&mut call);
    assert_eq!(call.poll_timeout(), Some(rang + RING));
    call.handle_timeout(rang + RING);
    let last = effects(&mut call);
    assert_eq!(last[0], Effect::HangUp { branch: Branch(0), cause: cause::no_answer() });
    assert_eq!((ending(&last).cause.status, ending(&last).ring), (480, Some(Duration::from_secs(3))));
}

#[test]
fn a_reoffer_passes_and_two_at_once_are_refused() {
    let now = Instant::now();
    let mut call = call(&[1], false, now);
    call.handle(Event::Answered { branch: Branch(0), sdp: sdp() }, now);
    effects(&mut call);
    let callee = Side::Callee(Branch(0));
    call.handle(Event::Reoffer { side: callee, offer: sdp() }, now);
    assert_eq!(effects(&mut call), [Effect::Reoffer { from: callee, to: Side::Caller, offer: sdp() }]);
    call.handle(Event::Reoffer { side: Side::Caller, offer: sdp() }, now);
    assert_eq!(effects(&mut call), [Effect::RejectReoffer { to: Side::Caller, cause: cause::glare() }]);
    call.handle(Event::ReofferAnswered { side: callee, sdp: sdp() }, now);
    assert_eq!(effects(&mut call), [], "only the side that was asked answers");
    call.handle(Event::ReofferAnswered { side: Side::Caller, sdp: sdp() }, now);
    assert_eq!(effects(&mut call), [Effect::AnswerReoffer { from: Side::Caller, to: callee, sdp: sdp() }]);
    call.handle(Event::Reoffer { side: Side::Caller, offer: sdp() }, now);
    effects(&mut call);
    call.handle(Event::ReofferFailed { side: callee, cause: cause(488) }, now);
    assert_eq!(effects(&mut call), [Effect::RejectReoffer { to: Side::Caller, cause: cause(488) }]);
}

#[test]
fn early_media_is_that_of_the_first() {
    let now = Instant::now();
    let mut call = call(&[1, 2], false, now);
    effects(&mut call);
    call.handle(Event::Progress { branch: Branch(1), status: 183, sdp: Some(sdp()) }, now);
    assert_eq!(effects(&mut call), [Effect::Ring { status: 183, early: Some((Branch(1), sdp())) }]);
    call.handle(Event::Progress { branch: Branch(0), status: 183, sdp: Some(sdp()) }, now);
    call.handle(Event::Progress { branch: Branch(0), status: 180, sdp: None }, now);
    assert_eq!(effects(&mut call), []);
}

/// A stand-in for the driver: legs and media as the effects leave them.
#[derive(Default)]
struct World {
    media: BTreeSet<Side>,
    dialled: BTreeSet<Branch>,
    ended: BTreeSet<Branch>,
    winners: Vec<Branch>,
    caller_ended: bool,
    locating: bool,
    finished: bool,
    /// Re-INVITEs and INFOs that went to a leg that was gone.
    to_the_dead: usize,
}

impl World {
    fn take(&mut self, effect: &Effect) {
        assert!(!self.finished, "after the end: {effect:?}");
        match effect {
            Effect::Locate => self.locating = true,
            Effect::StopLocate => self.locating = false,
            Effect::Dial { branch, .. } => {
                assert!(self.dialled.insert(*branch), "dialled twice");
                self.media.insert(Side::Callee(*branch));
            }
            Effect::Ring { .. } => assert!(!self.caller_ended && self.winners.is_empty()),
            Effect::Answer { branch, .. } => {
                assert!(!self.caller_ended && !self.ended.contains(branch));
                self.winners.push(*branch);
            }
            Effect::Echo | Effect::EchoReoffer { .. } => assert!(!self.caller_ended),
            Effect::EndCaller(_) => {
                assert!(!self.caller_ended, "the caller ends once");
                self.caller_ended = true;
            }
            Effect::HangUp { branch, .. } => drop(self.ended.insert(*branch)),
            Effect::FreeMedia(side) => drop(self.media.remove(side)),
            Effect::Reoffer { to, .. } | Effect::AnswerReoffer { to, .. } | Effect::Info { to, .. } => self.alive(*to),
            Effect::RejectReoffer { .. } => {}
            Effect::Finished(_) => self.finished = true,
        }
    }

    fn alive(&mut self, side: Side) {
        let dead = match side {
            Side::Caller => self.caller_ended,
            Side::Callee(branch) => self.ended.contains(&branch),
        };
        self.to_the_dead += usize::from(dead);
    }
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Caller), (0..6u32).prop_map(|n| Side::Callee(Branch(n)))]
}

fn branch() -> impl Strategy<Value = Branch> {
    (0..6u32).prop_map(Branch)
}

fn some_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![Just(480u16), Just(486), Just(488), Just(503), Just(603)].prop_map(cause)
}

fn event() -> impl Strategy<Value = Event> {
    let devices = proptest::collection::vec((0..12u8, 0..3u32, any::<bool>()), 0..5);
    let devices = devices.prop_map(|all| {
        all.into_iter().map(|(n, priority, dnd)| VerifiedDevice { dnd, ..device(n, priority) }).collect()
    });
    prop_oneof![
        3 => devices.prop_map(|devices| Event::Found { devices }),
        1 => prop_oneof![Just(Ok(())), Just(Err(LocateError::NotFound))].prop_map(Event::Located),
        3 => (branch(), any::<bool>()).prop_map(|(branch, early)| Event::Progress {
            branch,
            status: if early { 183 } else { 180 },
            sdp: early.then(sdp),
        }),
        2 => branch().prop_map(|branch| Event::Answered { branch, sdp: sdp() }),
        3 => (branch(), some_cause()).prop_map(|(branch, cause)| Event::Failed { branch, cause }),
        1 => side().prop_map(|side| Event::Ended { side, cause: None }),
        1 => (side(), some_cause()).prop_map(|(side, cause)| Event::MediaFailed { side, cause }),
        2 => side().prop_map(|side| Event::Reoffer { side, offer: sdp() }),
        1 => side().prop_map(|side| Event::ReofferAnswered { side, sdp: sdp() }),
        1 => (side(), some_cause()).prop_map(|(side, cause)| Event::ReofferFailed { side, cause }),
        1 => side().prop_map(|side| Event::Info { side, content_type: String::new(), body: sdp() }),
        1 => some_cause().prop_map(Event::Stop),
    ]
}

/// What happens: an event, or time passing.
fn step() -> impl Strategy<Value = Result<Event, u64>> {
    prop_oneof![8 => event().prop_map(Ok), 1 => (0..30u64).prop_map(Err)]
}

fn plan() -> impl Strategy<Value = Plan> {
    let ring = (0..3u64, any::<bool>())
        .prop_map(|(phones, locate)| Plan::Ring { contacts: (0..phones).map(ContactId).collect(), locate });
    prop_oneof![8 => ring, 1 => Just(Plan::Echo), 1 => Just(Plan::Refuse(cause(404)))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_before_a_hang_up_ends_both_legs_and_frees_all_media(
        plan in plan(),
        steps in proptest::collection::vec(step(), 0..40),
        by_caller in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let mut call = Call::new(plan, RING, now);
        let mut world = World { media: BTreeSet::from([Side::Caller]), ..World::default() };
        let drain = |call: &mut Call, world: &mut World| while let Some(effect) = call.poll_effect() {
            world.take(&effect);
        };
        drain(&mut call, &mut world);
        for step in steps {
            match step {
                Ok(event) => {
                    // What `sip` ends itself is ended without us.
                    match &event {
                        Event::Failed { branch, .. } | Event::Ended { side: Side::Callee(branch), .. } => {
                            if !world.dialled.contains(branch) { continue }
                            world.ended.insert(*branch);
                        }
                        Event::Ended { side: Side::Caller, .. } => {
                            if world.caller_ended { continue }
                            world.caller_ended = true;
                        }
                        Event::Answered { branch, .. } if world.ended.contains(branch) && !world.winners.contains(branch) => continue,
                        _ => {}
                    }
                    call.handle(event, now);
                }
                Err(seconds) => {
                    now += Duration::from_secs(seconds);
                    call.handle_timeout(now);
                }
            }
            drain(&mut call, &mut world);
        }
        if !world.finished {
            let side = match world.winners.first() {
                Some(winner) if !by_caller => Side::Callee(*winner),
                _ => Side::Caller,
            };
            match side {
                Side::Caller => world.caller_ended = true,
                Side::Callee(branch) => drop(world.ended.insert(branch)),
            }
            call.handle(Event::Ended { side, cause: None }, now);
            drain(&mut call, &mut world);
        }
        prop_assert!(world.finished, "not ended");
        prop_assert!(world.caller_ended, "the caller's leg is open");
        prop_assert!(world.dialled.is_subset(&world.ended), "legs are open: {:?}", world.dialled.difference(&world.ended));
        prop_assert!(world.media.is_empty(), "media is held: {:?}", world.media);
        prop_assert!(world.winners.len() <= 1, "two winners");
        prop_assert_eq!(world.to_the_dead, 0);
        prop_assert!(call.poll_timeout().is_none());
    }
}

#[test]
fn nobody_is_left_ringing_when_branches_fail_one_by_one() {
    let now = Instant::now();
    let mut call = call(&[1, 2, 3], false, now);
    let mut left: BTreeMap<Branch, ()> = dialled(&effects(&mut call)).into_iter().map(|b| (b, ())).collect();
    while let Some((branch, ())) = left.pop_first() {
        call.handle(Event::Failed { branch, cause: cause(480) }, now);
    }
    assert_eq!(ending(&effects(&mut call)).cause.status, 480);
}
