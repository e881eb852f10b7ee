use super::credentials::{parameters, response};
use super::*;

const REALM: &str = "peerline.alt";
const URI: &str = "sip:127.0.0.1";

struct Bench {
    server: Authenticator,
    now: Instant,
}

fn accounts() -> Arc<BTreeMap<String, Account>> {
    let account = |name: &str, sha256| Account { name: name.to_owned(), password: format!("pw of {name}"), sha256 };
    let all = [account("anna", false), account("ben", true)];
    Arc::new(all.into_iter().map(|account| (account.name.clone(), account)).collect())
}

fn bench() -> Bench {
    let now = Instant::now();
    Bench { server: Authenticator::new(REALM.to_owned(), &accounts(), [7; 32], now), now }
}

impl Bench {
    fn ask(&mut self, authorization: &[&str], claimed: &str) -> Verdict {
        self.ask_from(authorization, claimed, [192, 168, 1, 2])
    }

    fn ask_from(&mut self, authorization: &[&str], claimed: &str, source: [u8; 4]) -> Verdict {
        let attempt = Attempt { method: "REGISTER", uri: URI, authorization, source: Some(source.into()), claimed };
        self.server.verify(&attempt, self.now)
    }

    fn challenge(&mut self, claimed: &str) -> Challenge {
        challenge_of(&self.ask(&[], claimed))
    }

    fn attempt(&mut self, challenge: &Challenge, name: &str, password: &str, count: u32) -> Verdict {
        let value = authorization(challenge, name, password, "REGISTER", URI, (count, "c0ffee"));
        self.ask(&[&value], name)
    }
}

fn challenge_of(verdict: &Verdict) -> Challenge {
    match verdict {
        Verdict::Challenge { value, .. } => Challenge::parse(value).unwrap(),
        Verdict::Account(_) | Verdict::Silence => panic!("{verdict:?}"),
    }
}

fn refused(verdict: &Verdict) -> (Refused, bool, Duration) {
    match verdict {
        Verdict::Challenge { reason, delay, .. } => (*reason, challenge_of(verdict).stale, *delay),
        Verdict::Account(_) | Verdict::Silence => panic!("{verdict:?}"),
    }
}

fn ok(name: &str) -> Verdict {
    Verdict::Account(name.to_owned())
}

#[test]
fn computes_the_examples_of_the_rfcs() {
    // RFC 2617 §3.5 and RFC 7616 §3.9.1.
    let ha1 = hash::ha1(Algorithm::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
    let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
    let quality = Some(("00000001", "0a4f113b"));
    let text = response(Algorithm::Md5, &ha1, nonce, quality, "GET", "/dir/index.html");
    assert_eq!(text, "6629fae49393a05397450978507c4ef1");
    // RFC 2069 style (erratum 749).
    assert_eq!(
        response(Algorithm::Md5, &ha1, nonce, None, "GET", "/dir/index.html"),
        "670fd8c2df070c60b045671b8b24ff02"
    );
    let ha1 = hash::ha1(Algorithm::Sha256, "Mufasa", "http-auth@example.org", "Circle of Life");
    let quality = Some(("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"));
    let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    assert_eq!(
        response(Algorithm::Sha256, &ha1, nonce, quality, "GET", "/dir/index.html"),
        "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    );
}

#[test]
fn hmac_is_that_of_rfc_4231() {
    // Test case 2 with its key "Jefe" padded to our fixed length with zeros, which HMAC does anyway.
    let mut key = [0; 32];
    key[..4].copy_from_slice(b"Jefe");
    let mac = hash::hmac(&key, b"what do ya want for nothing?");
    assert_eq!(hash::hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

#[test]
fn a_phone_proves_its_password_with_either_algorithm() {
    let mut bench = bench();
    for name in ["anna", "ben"] {
        let challenge = bench.challenge(name);
        assert_eq!(bench.attempt(&challenge, name, &format!("pw of {name}"), 1), ok(name));
    }
    let Verdict::Challenge { value, .. } = bench.ask(&[], "ben") else { panic!() };
    assert!(value.contains("algorithm=SHA-256, qop=\"auth\""), "{value}");
}

#[test]
fn the_user_name_may_be_written_in_any_case() {
    let mut bench = bench();
    let challenge = bench.challenge("Anna");
    assert_eq!(bench.attempt(&challenge, "ANNA", "pw of anna", 1), ok("anna"));
}

#[test]
fn refuses_the_weaker_algorithm() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    let verdict = bench.attempt(&challenge, "ben", "pw of ben", 1);
    assert_eq!(refused(&verdict).0, Refused::Malformed);
}

#[test]
fn each_nonce_count_is_good_once_in_nearly_any_order() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    for count in [1, 3, 2, 40, 39] {
        assert_eq!(bench.attempt(&challenge, "anna", "pw of anna", count), ok("anna"), "{count}");
    }
    for count in [1, 2, 3, 39, 40, 8] {
        let verdict = bench.attempt(&challenge, "anna", "pw of anna", count);
        assert_eq!(refused(&verdict), (Refused::Replay, true, Duration::ZERO), "{count}");
    }
    assert_eq!(bench.attempt(&challenge, "anna", "pw of anna", 9), ok("anna"));
    assert_eq!(bench.attempt(&challenge, "anna", "pw of anna", u32::MAX), ok("anna"));
}

#[test]
fn without_qop_a_nonce_is_good_once() {
    let mut bench = bench();
    let nonce = bench.challenge("anna").nonce;
    let plain = Challenge::parse(&format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\"")).unwrap();
    assert_eq!(bench.attempt(&plain, "anna", "pw of anna", 1), ok("anna"));
    assert_eq!(refused(&bench.attempt(&plain, "anna", "pw of anna", 1)).0, Refused::Replay);
}

#[test]
fn an_old_nonce_is_stale_and_the_next_one_good() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    bench.now += Duration::from_secs(301);
    let verdict = bench.attempt(&challenge, "anna", "pw of anna", 1);
    assert_eq!(refused(&verdict), (Refused::Stale, true, Duration::ZERO));
    assert_eq!(bench.attempt(&challenge_of(&verdict), "anna", "pw of anna", 1), ok("anna"));
}

#[test]
fn a_nonce_of_an_earlier_process_is_stale_for_who_knows_the_password_only() {
    let mut bench = bench();
    let mut challenge = bench.challenge("anna");
    challenge.nonce = "00".repeat(32);
    assert_eq!(refused(&bench.attempt(&challenge, "anna", "pw of anna", 1)).0, Refused::Stale);
    assert_eq!(refused(&bench.attempt(&challenge, "anna", "wrong", 1)), (Refused::Wrong, false, Duration::ZERO));
    challenge.nonce = "not ours".to_owned();
    assert_eq!(refused(&bench.attempt(&challenge, "anna", "pw of anna", 1)).0, Refused::Stale);
}

#[test]
fn forgetting_nonces_never_admits_a_replay() {
    let mut nonces = Nonces::new([1; 32], Instant::now());
    let now = Instant::now();
    let issued: Vec<String> = (0..70_000).map(|_| nonces.issue(now)).collect();
    assert!(issued.iter().all(|nonce| nonces.spend(nonce, Some(1), now) == Use::First));
    assert!(issued.iter().all(|nonce| nonces.spend(nonce, Some(1), now) != Use::First));
}

#[test]
fn the_digest_uri_must_be_the_request_uri() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    let value = authorization(&challenge, "anna", "pw of anna", "REGISTER", "sip:elsewhere", (1, "x"));
    assert_eq!(refused(&bench.ask(&[&value], "anna")).0, Refused::OtherUri);
}

#[test]
fn another_method_does_not_fit() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    let value = authorization(&challenge, "anna", "pw of anna", "INVITE", URI, (1, "x"));
    assert_eq!(refused(&bench.ask(&[&value], "anna")).0, Refused::Wrong);
}

#[test]
fn finds_its_realm_among_others() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    let ours = authorization(&challenge, "anna", "pw of anna", "REGISTER", URI, (1, "x"));
    let mut other = challenge.clone();
    other.realm = "elsewhere".to_owned();
    let other = authorization(&other, "anna", "pw of anna", "REGISTER", URI, (1, "x"));
    assert_eq!(refused(&bench.ask(&[&other], "anna")).0, Refused::NoCredentials);
    assert_eq!(bench.ask(&[&other, &ours], "anna"), ok("anna"));
}

#[test]
fn unknown_user_and_wrong_password_get_the_same_answer() {
    let mut bench = bench();
    let shape = |verdict: &Verdict| match verdict {
        Verdict::Challenge { value, delay, reason } => {
            let nonce = &challenge_of(verdict).nonce;
            (value.replace(nonce.as_str(), "").replace("SHA-256", "MD5"), *delay, *reason)
        }
        Verdict::Account(_) | Verdict::Silence => panic!("{verdict:?}"),
    };
    let known = bench.challenge("anna");
    let known = shape(&bench.attempt(&known, "anna", "wrong", 1));
    let unknown = bench.challenge("nobody-there");
    let unknown = shape(&bench.attempt(&unknown, "nobody-there", "wrong", 1));
    assert_eq!(known, unknown);
    // The password of the stand-in is not a way in.
    let stand_in = bench.server.nobody.password.clone();
    let challenge = bench.challenge("nobody");
    assert_eq!(refused(&bench.attempt(&challenge, "nobody", &stand_in, 1)).0, Refused::Wrong);
}

#[test]
fn wrong_passwords_get_slower_and_then_nothing_while_others_go_on() {
    let mut bench = bench();
    let challenge = bench.challenge("anna");
    assert_eq!(bench.attempt(&challenge, "anna", "pw of anna", 1), ok("anna"));
    let guess = |bench: &mut Bench, source| {
        let value = authorization(&challenge, "anna", "guess", "REGISTER", URI, (9, "x"));
        bench.ask_from(&[&value], "anna", source)
    };
    let thief = [10, 0, 0, 9];
    let delays: Vec<Duration> = (0..3).map(|_| refused(&guess(&mut bench, thief)).2).collect();
    assert_eq!(delays, [Duration::ZERO; 3]);
    let mut expected = Duration::from_millis(250);
    for _ in 0..8 {
        let delay = refused(&guess(&mut bench, thief)).2;
        assert_eq!(delay, expected);
        assert_eq!(guess(&mut bench, thief), Verdict::Silence);
        expected = (expected * 2).min(Duration::from_secs(8));
        bench.now += delay;
    }
    // From everywhere at once: the account closes for strangers, not for the phone that was there before.
    for host in 0..60 {
        guess(&mut bench, [10, 0, 1, host]);
    }
    assert_eq!(guess(&mut bench, [10, 0, 2, 1]), Verdict::Silence);
    assert_eq!(bench.attempt(&challenge, "anna", "pw of anna", 2), ok("anna"));
    // Forgotten after ten quiet minutes.
    bench.now += Duration::from_secs(601);
    assert_eq!(refused(&guess(&mut bench, thief)).2, Duration::ZERO);
}

#[test]
fn the_table_of_failures_has_a_bound() {
    let mut penalties = Penalties::default();
    let now = Instant::now();
    for host in 0..20_000_u32 {
        penalties.failed(Some(IpAddr::V4(host.into())), "x", now);
    }
    assert!(penalties.rows() <= 16_384);
}

#[test]
fn reads_parameters_as_they_stand() {
    let value = r#"Digest username="a\"b,c", realm = "r" ,nc=1,, empty="""#;
    let expected = vec![("username", r#"a\"b,c"#), ("realm", "r"), ("nc", "1"), ("empty", "")];
    assert_eq!(parameters(value).unwrap(), expected);
    assert!(parameters("dIGEST A=b").is_ok());
    let many = format!("Digest {}", (0..25).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join(","));
    let long = format!("Digest a=\"{}\"", "x".repeat(3000));
    let bad = [
        "",
        "Digest",
        "Basic a=b",
        "Digest a",
        "Digest a=\"",
        "Digest a=\"\\\"",
        "Digest =b",
        "Digest a=b,A=c",
        "Digest a=\"b\" c",
        "Digest \u{e9}=b",
        &many,
        &long,
    ];
    for value in bad {
        assert!(parameters(value).is_err(), "{value}");
    }
}

#[test]
fn refuses_what_was_not_offered() {
    let fields = r#"Digest username="a", realm="r", nonce="n", uri="u", response="x""#;
    assert!(Credentials::parse(fields).is_ok());
    for more in [
        "qop=auth-int, nc=1, cnonce=\"x\"",
        "qop=auth",
        "qop=auth, nc=1",
        "qop=auth, nc=xyz, cnonce=\"x\"",
        "qop=auth, nc=000000001, cnonce=x",
        "algorithm=MD5-sess",
        "algorithm=SHA-512-256",
    ] {
        assert!(Credentials::parse(&format!("{fields}, {more}")).is_err(), "{more}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(value in "(Digest )?.{0,200}") {
        let _ = Credentials::parse(&value);
        let _ = Challenge::parse(&value);
    }

    #[test]
    fn never_panics_on_digest_like_text(value in r#"Digest ([a-z]{1,8}=("[^"]{0,9}\\?"|[a-z0-9]{0,4}),? ?){0,12}"#) {
        let _ = Credentials::parse(&value);
        let _ = Challenge::parse(&value);
        let mut bench = bench();
        let _ = bench.ask(&[&value], &value);
    }
}
