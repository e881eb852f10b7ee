//! Running nodes: first start, the local API, commands beside a running node, calls between processes, the way out.

use crate::program::{Home, http, read, until};
use std::time::Duration;

#[test]
fn a_first_start_makes_what_is_missing_and_a_second_keeps_it() {
    let home = Home::new();
    let node = home.start(&[], "first", &[]);
    let number = node.info["users"][0]["number"].as_str().expect("a number").to_owned();
    assert_eq!(number.len(), 40);
    assert_eq!(node.info["users"][0]["accounts"][0]["name"], "me");
    let run: serde_json::Value = serde_json::from_str(&read(&home.data().join("run.json"))).unwrap();
    assert_eq!(run, node.info);
    let (peer, listen) = (node.text("peer_id"), node.bootstrap());
    let (took, code, words) = node.terminate();
    assert_eq!(code, Some(0), "{words}");
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert!(words.contains("24 recovery words") && words.contains("recovery-words.txt"), "{words}");
    assert!(!home.data().join("run.json").exists());

    let again = home.start(&[], "first", &[]);
    assert_eq!(again.info["users"][0]["number"], number.as_str());
    assert_eq!((again.text("peer_id"), again.bootstrap()), (peer, listen));
    let (_, _, words) = again.terminate();
    assert!(!words.contains("24 recovery words") && words.contains("still in"), "{words}");
}

#[test]
fn the_local_api_answers_its_owner_only() {
    let home = Home::new();
    let node = home.start(&[], "api", &[]);
    let api = node.text("api");
    let token = read(&home.data().join("api.token"));
    assert_eq!(http(&api, &api, "/health", None).0, 200);
    let (status, metrics) = http(&api, &api, "/metrics", None);
    assert!(status == 200 && metrics.contains("peerline_runtime_tasks ") && metrics.contains("# EOF"), "{metrics}");
    assert_eq!(http(&api, &api, "/v1/status", None).0, 401);
    assert_eq!(http(&api, &api, "/v1/status", Some("guess")).0, 401);
    assert_eq!(http(&api, &api, "/v1/status", Some(token.trim())).0, 200);
    // A page whose name was rebound to this address (DNS rebinding).
    assert_eq!(http(&api, "evil.example", "/health", None).0, 421);
    assert_eq!(http(&api, "evil.example", "/v1/status", Some(token.trim())).0, 421);
    let status = home.run(&["status", "--json"]).json();
    assert_eq!(status["role"], "desktop");
    assert!(status["tasks"].as_u64().is_some_and(|tasks| tasks > 0), "{status}");
    let nobody = home.run(&["lookup", "nobody"]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
}

#[test]
fn a_running_gateway_takes_new_phones_and_contacts() {
    let home = Home::new();
    let node = home.start(&["gateway"], "gateway", &[]);
    let made = home.run(&["phone", "add", "desk", "--json"]).json();
    assert_eq!(made["server"], node.info["sip_udp"]);
    let other = home.run(&["phone", "add", "hall", "--json"]).json();
    assert_ne!(made["number"], other["number"], "each phone of a gateway has a user of its own");
    // Registers, so the account reached the running node within the time that `answer` tries.
    let called = until("the new account", || {
        let called = home.run(&["call", "echo", "--account", "desk", "--tone", "440", "--duration", "2s", "--json"]);
        (called.code == 0).then(|| called.json())
    });
    assert!((called["tone_hz"].as_f64().unwrap_or(0.0) - 440.0).abs() < 10.0, "{called}");
}

#[test]
fn a_call_crosses_two_processes_and_both_hear_the_other() {
    let relay_home = Home::new();
    let relay = relay_home.start(&["relay"], "two", &[]);
    let bootstrap = relay.bootstrap();
    let (anna_home, ben_home) = (Home::new(), Home::new());
    let _anna = anna_home.start(&[], "two", &["--bootstrap", &bootstrap]);
    let ben = ben_home.start(&[], "two", &["--bootstrap", &bootstrap]);
    let uri = ben.info["users"][0]["uri"].as_str().unwrap().to_owned();

    let answering = std::thread::spawn(move || {
        let answered = ben_home.run(&["answer", "--tone", "620", "--count", "1", "--json"]);
        (ben_home, answered)
    });
    until("ben's binding", || (anna_home.run(&["lookup", &uri]).code == 0).then_some(()));
    let called = anna_home.run(&["call", &uri, "--tone", "440", "--duration", "3s", "--json"]);
    assert_eq!(called.code, 0, "{called:?}");
    let (ben_home, answered) = answering.join().unwrap();
    let tone = |value: &serde_json::Value| value["tone_hz"].as_f64().unwrap_or(0.0);
    assert!((tone(&called.json()) - 620.0).abs() < 10.0, "{called:?}");
    assert!((tone(&answered.json()) - 440.0).abs() < 10.0, "{answered:?}");

    // Nobody answers any more: not online.
    let offline = until("ben's tombstone", || {
        let called = anna_home.run(&["call", &uri, "--json"]);
        (called.code == 1 && called.json()["status"] == 480).then_some(called)
    });
    assert!(offline.json()["words"].as_str().is_some_and(|w| !w.is_empty()), "{offline:?}");
    drop(ben_home);
}

#[test]
fn the_demo_calls_measures_and_leaves_nothing_behind() {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    // It has no use for a data directory; its own folders go where temporary files go.
    let output = home.command(&["demo", "--once", "--json"]).env("TMPDIR", home.data()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {words}"));
    assert_eq!((output.status.code(), &measured["tones_ok"]), (Some(0), &true.into()), "{measured} {words}");
    assert_eq!(measured["nodes"], 10);
    for key in ["lookup_ms", "ring_ms", "voice_ms"] {
        assert!(measured[key].is_u64(), "{measured}");
    }
    assert_eq!(std::fs::read_dir(home.data()).unwrap().count(), 0, "something was left behind");
}
