//! RFC 3261 §10.3, with time as a value.

use super::address::same_uri;
use super::*;
use crate::sip::digest::{Challenge, authorization};
use std::net::SocketAddr;

const START: UnixMillis = UnixMillis(1_800_000_000_000);
const TARGET: &str = "sip:127.0.0.1:5070";

struct Bench {
    registrar: Registrar,
    started: Instant,
    now: Instant,
    cseq: u32,
}

/// What a phone sends, with the usual values.
#[derive(Clone)]
struct Phone<'a> {
    account: &'a str,
    password: &'a str,
    to: &'a str,
    call_id: &'a str,
    contacts: Vec<&'a str>,
    expires: Option<&'a str>,
    flow: Flow,
}

fn udp(port: u16) -> Flow {
    Flow::Udp { local: "127.0.0.1:5070".parse().unwrap(), remote: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn tcp(connection: u64) -> Flow {
    Flow::Tcp { connection, local: "127.0.0.1:5070".parse().unwrap(), remote: "127.0.0.1:9".parse().unwrap() }
}

fn anna<'a>(contacts: &[&'a str]) -> Phone<'a> {
    Phone {
        account: "anna",
        password: "pw",
        to: "<sip:anna@peerline.alt>",
        call_id: "one",
        contacts: contacts.to_vec(),
        expires: None,
        flow: udp(4000),
    }
}

fn accounts(names: &[(&str, &str)]) -> Arc<BTreeMap<String, Account>> {
    let account = |(name, password): &(&str, &str)| {
        let account = Account { name: (*name).to_owned(), password: (*password).to_owned(), sha256: false };
        ((*name).to_owned(), account)
    };
    Arc::new(names.iter().map(account).collect())
}

fn bench_with(restored: Vec<(String, Vec<u8>)>, wall: UnixMillis) -> Bench {
    let now = Instant::now();
    let accounts = accounts(&[("anna", "pw"), ("ben", "pw")]);
    let registrar = Registrar::new("peerline.alt".to_owned(), accounts, 3, restored, [1; 32], now, wall);
    Bench { registrar, started: now, now, cseq: 0 }
}

fn bench() -> Bench {
    bench_with(Vec::new(), START)
}

impl Bench {
    fn wall(&self) -> UnixMillis {
        UnixMillis(START.0 + u64::try_from((self.now - self.started).as_millis()).unwrap())
    }

    fn send(&mut self, phone: &Phone<'_>, cseq: u32, authorization: Vec<&str>) -> RegisterOutcome {
        let request = RegisterRequest {
            uri: TARGET,
            to: phone.to,
            call_id: phone.call_id,
            cseq,
            contacts: phone.contacts.clone(),
            expires: phone.expires,
            authorization,
            flow: phone.flow,
        };
        self.registrar.handle_register(&request, self.now, self.wall())
    }

    /// Challenge and answer.
    fn ask_at(&mut self, phone: &Phone<'_>, cseq: u32) -> RegisterOutcome {
        let RegisterOutcome::Reply(reply) = self.send(phone, cseq, Vec::new()) else { panic!("no challenge") };
        assert_eq!(reply.status, 401);
        let challenge = Challenge::parse(&reply.headers[0].1).unwrap();
        let value = authorization(&challenge, phone.account, phone.password, "REGISTER", TARGET, (1, "c"));
        self.send(phone, cseq, vec![&value])
    }

    fn ask(&mut self, phone: &Phone<'_>) -> RegisterOutcome {
        self.cseq += 1;
        self.ask_at(phone, self.cseq)
    }

    fn reply(&mut self, phone: &Phone<'_>) -> Reply {
        match self.ask(phone) {
            RegisterOutcome::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn accepted(&mut self, phone: &Phone<'_>) -> (BindId, Vec<u8>) {
        match self.ask(phone) {
            RegisterOutcome::Accepted { bind, snapshot, .. } => (bind, snapshot),
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, phone: &Phone<'_>) -> Vec<String> {
        let (bind, _) = self.accepted(phone);
        let reply = self.registrar.confirm(bind, true, self.now).unwrap();
        assert_eq!(reply.status, 200);
        values(&reply)
    }

    fn uris(&self, account: &str) -> Vec<String> {
        let ids = self.registrar.contacts(account);
        ids.into_iter().map(|id| self.registrar.contact(id).unwrap().uri).collect()
    }

    fn changes(&mut self) -> Vec<(String, usize, bool)> {
        let next = |registrar: &mut Registrar| registrar.poll_effect();
        let all = std::iter::from_fn(|| next(&mut self.registrar));
        all.map(|changed| (changed.account, changed.contacts.len(), changed.snapshot.is_empty())).collect()
    }

    /// The indexes hold what the accounts hold.
    fn check(&self) {
        let bound: Vec<&Bound> = self.registrar.bound.values().flat_map(|contacts| contacts.now()).collect();
        assert_eq!(bound.len(), self.registrar.owners.len());
        assert_eq!(bound.len(), self.registrar.ends.len());
        assert!(bound.iter().all(|bound| self.registrar.ends.contains(&(bound.expires, bound.id))));
        let tcp = bound.iter().filter(|bound| matches!(bound.flow, Flow::Tcp { .. })).count();
        assert_eq!(tcp, self.registrar.connections.len());
        assert_eq!(self.registrar.waiting.len(), self.registrar.bound.values().map(|c| c.pending.len()).sum::<usize>());
    }
}

fn values(reply: &Reply) -> Vec<String> {
    reply.headers.iter().filter(|(name, _)| *name == "Contact").map(|(_, value)| value.clone()).collect()
}

#[test]
fn registers_refreshes_and_ends() {
    let mut bench = bench();
    assert_eq!(bench.register(&anna(&["<sip:anna@1.2.3.4:4000>"])), ["<sip:anna@1.2.3.4:4000>;expires=3600"]);
    let id = bench.registrar.contacts("anna");
    bench.now += Duration::from_secs(3000);
    let again = Phone { expires: Some("600"), ..anna(&["<sip:anna@1.2.3.4:4000>"]) };
    assert_eq!(bench.register(&again), ["<sip:anna@1.2.3.4:4000>;expires=600"]);
    assert_eq!(bench.registrar.contacts("anna"), id);
    bench.check();
    let due = bench.registrar.poll_timeout().unwrap();
    assert_eq!(due, bench.now + Duration::from_secs(600));
    bench.now = due;
    let wall = bench.wall();
    bench.registrar.handle_timeout(due, wall);
    assert_eq!(bench.changes(), [("anna".to_owned(), 0, true)]);
    assert_eq!(bench.registrar.poll_timeout(), None);
    assert_eq!(bench.registrar.contact(id[0]).map(|contact| contact.uri), None);
    bench.check();
}

#[test]
fn nothing_is_seen_before_the_binding_is_kept() {
    let mut bench = bench();
    let (bind, _) = bench.accepted(&anna(&["<sip:anna@1.2.3.4>"]));
    assert!(bench.uris("anna").is_empty() && bench.registrar.shown(bench.now).is_empty());
    assert_eq!(bench.registrar.confirm(bind, false, bench.now).unwrap().status, 500);
    assert!(bench.uris("anna").is_empty());
    // What was put on disk meanwhile is corrected.
    assert_eq!(bench.changes(), [("anna".to_owned(), 0, true)]);
    assert_eq!(bench.registrar.confirm(bind, true, bench.now), None);
    bench.check();
}

#[test]
fn two_phones_at_once_are_both_kept() {
    let mut bench = bench();
    let (first, _) = bench.accepted(&anna(&["<sip:a@1.1.1.1>"]));
    let other = Phone { call_id: "two", flow: udp(4001), ..anna(&["<sip:a@2.2.2.2>"]) };
    let (second, snapshot) = bench.accepted(&other);
    assert_eq!(snapshot::decode(&snapshot, 9).len(), 2);
    bench.registrar.confirm(second, true, bench.now).unwrap();
    assert_eq!(bench.uris("anna"), ["sip:a@2.2.2.2"]);
    bench.registrar.confirm(first, true, bench.now).unwrap();
    assert_eq!(bench.uris("anna").len(), 2);
    bench.check();
}

#[test]
fn an_unconfirmed_binding_is_forgotten() {
    let mut bench = bench();
    let (bind, _) = bench.accepted(&anna(&["<sip:a@1.1.1.1>"]));
    bench.now = bench.registrar.poll_timeout().unwrap();
    let wall = bench.wall();
    bench.registrar.handle_timeout(bench.now, wall);
    assert_eq!(bench.registrar.confirm(bind, true, bench.now), None);
    assert_eq!(bench.changes(), [("anna".to_owned(), 0, true)]);
    assert_eq!(bench.registrar.poll_timeout(), None);
    bench.check();
}

#[test]
fn lives_are_bounded() {
    let mut bench = bench();
    let brief = Phone { expires: Some("59"), ..anna(&["<sip:a@1.1.1.1>"]) };
    let reply = bench.reply(&brief);
    assert_eq!((reply.status, reply.headers), (423, vec![("Min-Expires", "60".to_owned())]));
    for (header, parameter, expected) in [
        (Some("60"), "", 60),
        (Some("60"), ";expires=120", 120),
        (Some("7200"), "", 3600),
        (None, ";expires=99999999999999999999", 3600),
        (Some("soon"), "", 3600),
    ] {
        let contact = format!("<sip:a@1.1.1.1>{parameter}");
        let phone = Phone { expires: header, ..anna(&[&contact]) };
        assert_eq!(bench.register(&phone), [format!("<sip:a@1.1.1.1>;expires={expected}")]);
    }
}

#[test]
fn unregisters_one_or_all() {
    let mut bench = bench();
    bench.register(&anna(&["<sip:a@1.1.1.1>, <sip:a@2.2.2.2>;q=0.5"]));
    assert_eq!(bench.uris("anna"), ["sip:a@1.1.1.1", "sip:a@2.2.2.2"]);
    assert_eq!(bench.register(&anna(&["<sip:a@1.1.1.1>;expires=0"])), ["<sip:a@2.2.2.2>;expires=3600;q=0.500"]);
    let (bind, snapshot) = bench.accepted(&Phone { expires: Some("0"), ..anna(&["*"]) });
    assert!(snapshot.is_empty());
    assert!(values(&bench.registrar.confirm(bind, true, bench.now).unwrap()).is_empty());
    assert!(bench.uris("anna").is_empty());
    bench.check();
    // Nothing there: nothing to keep, answered at once.
    assert_eq!(bench.reply(&anna(&["<sip:a@1.1.1.1>;expires=0"])).status, 200);
    assert!(bench.registrar.bound.is_empty());
}

#[test]
fn a_star_needs_expires_zero_and_nothing_beside_it() {
    let mut bench = bench();
    for (contacts, expires) in
        [(vec!["*"], None), (vec!["*"], Some("60")), (vec!["*", "<sip:a@b>"], Some("0")), (vec!["*;x"], Some("0"))]
    {
        let phone = Phone { contacts, expires, ..anna(&[]) };
        assert_eq!(bench.reply(&phone).status, 400);
    }
}

#[test]
fn a_request_without_contact_asks() {
    let mut bench = bench();
    assert_eq!(values(&bench.reply(&anna(&[]))).len(), 0);
    bench.register(&anna(&["<sip:a@1.1.1.1>;q=0.7;+sip.instance=\"<urn:uuid:1>\""]));
    let expected = "<sip:a@1.1.1.1>;expires=3600;q=0.700;+sip.instance=\"<urn:uuid:1>\"";
    assert_eq!(values(&bench.reply(&anna(&[]))), [expected]);
}

#[test]
fn an_older_request_changes_nothing() {
    let mut bench = bench();
    bench.cseq = 10;
    bench.register(&anna(&["<sip:a@1.1.1.1>"]));
    let removal = Phone { expires: Some("0"), ..anna(&["<sip:a@1.1.1.1>"]) };
    let all = Phone { expires: Some("0"), ..anna(&["*"]) };
    for (phone, cseq) in [(&removal, 11), (&removal, 3), (&all, 11)] {
        let RegisterOutcome::Reply(reply) = bench.ask_at(phone, cseq) else { panic!() };
        assert_eq!(reply.status, 500);
    }
    assert_eq!(bench.uris("anna").len(), 1);
    // Another Call-ID is another phone life.
    assert!(bench.register(&Phone { call_id: "two", ..removal }).is_empty());
}

#[test]
fn a_restarted_phone_replaces_its_old_contact() {
    let mut bench = bench();
    bench.register(&anna(&["<sip:a@1.1.1.1:1>;+sip.instance=\"<urn:x>\""]));
    let id = bench.registrar.contacts("anna");
    let moved = Phone { flow: udp(4009), call_id: "two", ..anna(&["<sip:a@1.1.1.1:2>;+sip.instance=\"<urn:x>\""]) };
    bench.register(&moved);
    assert_eq!((bench.uris("anna"), bench.registrar.contacts("anna")), (vec!["sip:a@1.1.1.1:2".to_owned()], id));
    // Same address, no instance.
    bench.register(&Phone { flow: udp(4009), call_id: "three", ..anna(&["<sip:a@1.1.1.1:3>"]) });
    assert_eq!(bench.uris("anna"), ["sip:a@1.1.1.1:3"]);
    // Two instances behind one address are two phones; two contacts in one request as well.
    bench
        .register(&Phone { call_id: "x", ..anna(&["<sip:a@1.1.1.1:4>;+sip.instance=\"<urn:y>\", <sip:a@1.1.1.1:5>"]) });
    assert_eq!(bench.uris("anna").len(), 3);
    bench.check();
}

#[test]
fn a_full_account_drops_the_phone_not_heard_of_for_longest() {
    let mut bench = bench();
    for port in 1..=5 {
        let contact = format!("<sip:a@1.1.1.1:{port}>");
        bench.now += Duration::from_secs(1);
        bench.register(&Phone { flow: udp(port), ..anna(&[&contact]) });
    }
    assert_eq!(bench.uris("anna"), ["sip:a@1.1.1.1:5", "sip:a@1.1.1.1:4", "sip:a@1.1.1.1:3"]);
    bench.check();
}

#[test]
fn only_the_own_account() {
    let mut bench = bench();
    for to in ["<sip:ben@peerline.alt>", "<sip:peerline.alt>", "nonsense", "<tel:1>"] {
        assert_eq!(bench.reply(&Phone { to, ..anna(&["<sip:a@1.1.1.1>"]) }).status, 403, "{to}");
    }
    for to in ["\"A \\\" <b>\" <sip:ANNA@other.host;x=y>;tag=1", "sip:ann%61@x"] {
        bench.register(&Phone { to, ..anna(&["<sip:a@1.1.1.1>"]) });
    }
    assert_eq!(bench.registrar.refusals()["register_other_account"], 4);
}

#[test]
fn refuses_contacts_that_could_not_be_written_back() {
    let mut bench = bench();
    let long = format!("<sip:{}@x>", "a".repeat(600));
    let many = vec!["<sip:a@b>"; 17];
    for contacts in [
        vec!["<sip:a@b"],
        vec!["<>"],
        vec!["<tel:1>"],
        vec!["\"x <sip:a@b>"],
        vec!["<sip:a b@c>"],
        vec!["<sip:a@b>;q=2"],
        vec!["<sip:a@b:99999>"],
        vec!["<sip:\u{e9}@b>"],
        vec![long.as_str()],
        many,
    ] {
        let shown = contacts.join(",");
        assert_eq!(bench.reply(&Phone { contacts, ..anna(&[]) }).status, 400, "{shown}");
    }
    assert!(bench.registrar.bound.is_empty());
}

#[test]
fn other_requests_are_authenticated_too() {
    let mut bench = bench();
    let request = |authorization| AuthRequest {
        method: "INVITE",
        uri: "sip:12@127.0.0.1",
        from: "<sip:anna@x>;tag=1",
        authorization,
        flow: udp(4000),
    };
    let Authenticated::Reply(reply) = bench.registrar.authenticate(&request(vec![]), bench.now) else { panic!() };
    let challenge = Challenge::parse(&reply.headers[0].1).unwrap();
    let value = authorization(&challenge, "anna", "pw", "INVITE", "sip:12@127.0.0.1", (1, "c"));
    let verdict = bench.registrar.authenticate(&request(vec![&value]), bench.now);
    assert_eq!(verdict, Authenticated::Account("anna".to_owned()));
}

#[test]
fn a_closed_connection_takes_its_contacts() {
    let mut bench = bench();
    bench.register(&Phone { flow: tcp(5), ..anna(&["<sip:a@1.1.1.1;transport=tcp>"]) });
    bench.register(&Phone { call_id: "two", ..anna(&["<sip:a@2.2.2.2>"]) });
    bench.registrar.flow_closed(6);
    assert!(bench.changes().is_empty());
    bench.registrar.flow_closed(5);
    assert_eq!(bench.uris("anna"), ["sip:a@2.2.2.2"]);
    assert_eq!(bench.changes(), [("anna".to_owned(), 1, false)]);
    bench.check();
}

#[test]
fn removed_accounts_and_changed_passwords_lose_their_contacts() {
    let mut bench = bench();
    bench.register(&anna(&["<sip:a@1.1.1.1>"]));
    bench.register(&Phone { account: "ben", to: "<sip:ben@x>", ..anna(&["<sip:b@1.1.1.1>"]) });
    bench.registrar.set_accounts(accounts(&[("anna", "pw"), ("ben", "pw"), ("new", "x")]), bench.now);
    assert!(bench.changes().is_empty());
    bench.registrar.set_accounts(accounts(&[("ben", "other")]), bench.now);
    assert_eq!(bench.changes(), [("anna".to_owned(), 0, true), ("ben".to_owned(), 0, true)]);
    bench.check();
}

#[test]
fn registrations_survive_a_restart() {
    let mut bench = bench();
    bench.register(&anna(&["<sip:a@1.1.1.1>;+sip.instance=\"<urn:x>\", <sip:a@2.2.2.2>;q=0.2;expires=100"]));
    let over_tcp = Phone { flow: tcp(1), call_id: "t", ..anna(&["<sip:a@3.3.3.3>"]) };
    let (_, snapshot) = bench.accepted(&over_tcp);
    let ben = Phone { account: "ben", to: "<sip:ben@x>", expires: Some("90"), ..anna(&["<sip:b@1.1.1.1>"]) };
    let (_, ben) = bench.accepted(&ben);
    let restored =
        vec![("anna".to_owned(), snapshot.clone()), ("ben".to_owned(), ben), ("gone".to_owned(), snapshot.clone())];
    let mut later = bench_with(restored, UnixMillis(START.0 + 95_000));
    assert_eq!(later.uris("anna"), ["sip:a@1.1.1.1", "sip:a@2.2.2.2"]);
    let expected = [("anna".to_owned(), 2, false), ("ben".to_owned(), 0, true), ("gone".to_owned(), 0, true)];
    assert_eq!(later.changes(), expected);
    assert_eq!(later.registrar.poll_timeout(), Some(later.now + Duration::from_secs(5)));
    assert_eq!(later.registrar.contact(later.registrar.contacts("anna")[0]).unwrap().flow, udp(4000));
    // The phone goes on with its old Call-ID.
    assert_eq!(later.register(&anna(&["<sip:a@1.1.1.1>"])).len(), 2);
    later.check();
    // A clock set back does not make them immortal.
    let early = bench_with(vec![("anna".to_owned(), snapshot)], UnixMillis(0));
    assert_eq!(early.registrar.poll_timeout(), Some(early.now + Duration::from_secs(3600)));
}

#[test]
fn contact_uris_compare_as_rfc_3261_19_1_4_says() {
    for (a, b) in [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
        ("sip:biloxi.com;transport=tcp;method=REGISTER", "sip:biloxi.com;method=REGISTER;transport=tcp"),
        ("sip:a@b?subject=x&priority=y", "sip:a@b?priority=y&subject=x"),
    ] {
        assert!(same_uri(a, b) && same_uri(b, a), "{a} {b}");
    }
    for (a, b) in [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;security=on"),
        ("sip:a@b", "sips:a@b"),
        ("sip:a@b", "sip:b"),
    ] {
        assert!(!same_uri(a, b) && !same_uri(b, a), "{a} {b}");
    }
}

proptest::proptest! {
    #[test]
    fn damaged_snapshots_cost_contacts_only(at in 0_usize..120, byte: u8, cut in 0_usize..120) {
        let mut bench = bench();
        let (_, mut bytes) = bench.accepted(&anna(&["<sip:a@1.1.1.1>;+sip.instance=\"<urn:x>\", <sip:a@2.2.2.2>;q=0.2"]));
        proptest::prop_assert_eq!(snapshot::decode(&bytes, 9).len(), 2);
        if let Some(target) = bytes.get_mut(at) {
            *target = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        bench_with(vec![("anna".to_owned(), bytes)], START).check();
    }

    #[test]
    fn garbage_is_no_snapshot(bytes: Vec<u8>) {
        let _ = snapshot::decode(&bytes, 255);
    }

    #[test]
    fn never_panics(to in ".{0,60}", contact in "(<sip:)?[a-z0-9@;=:\\[\\]?%&\"<>,*. ]{0,60}", expires in ".{0,12}") {
        let mut bench = bench();
        let _ = bench.ask(&Phone { expires: Some(&expires), ..anna(&[&contact]) });
        let _ = user_of(&to);
        let _ = user_of(&contact);
        let _ = same_uri(&contact, &to);
        bench.check();
    }
}
