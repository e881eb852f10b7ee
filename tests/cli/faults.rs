//! Faults a user meets: one line that says what and what to do, exit 2.

use crate::program::{Home, NODE};

fn start(home: &Home, more: &[&str]) -> crate::program::Ended {
    let mut args = NODE.to_vec();
    args.extend(["--test-overlay", "faults"]);
    args.extend(more);
    home.run(&args)
}

#[test]
fn a_broken_configuration_names_the_key() {
    let home = Home::new();
    home.run(&["config", "check"]);
    std::fs::write(home.data().join("peerline.toml"), "[sip]\nudpp = 1\n").unwrap_or_else(|_| {
        std::fs::create_dir_all(home.data()).unwrap();
        std::fs::write(home.data().join("peerline.toml"), "[sip]\nudpp = 1\n").unwrap();
    });
    home.run(&["config", "check"]).is_broken_saying(&["peerline.toml", "`sip.udpp`"]);
    let unknown = home.command(&["config", "check"]).env("PEERLINE_SIP__TCPP", "1").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    home.run(&["config", "check", "--config", "nowhere.toml"]).is_broken_saying(&["nowhere.toml"]);
}

#[cfg(unix)]
#[test]
fn files_open_to_others_are_refused_with_the_cure() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    assert_eq!(home.run(&["phone", "add", "desk"]).code, 0);
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let phones = home.data().join("phones.toml");
    mode(&phones, 0o644);
    home.run(&["phone", "list"]).is_broken_saying(&["chmod 600", "phones.toml"]);
    mode(&phones, 0o600);
    let users = std::fs::read_dir(home.data().join("users")).unwrap();
    let identity = users.map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "id")).unwrap();
    mode(&identity, 0o640);
    start(&home, &[]).is_broken_saying(&["chmod 600"]);
    mode(&identity, 0o600);
    mode(&home.data(), 0o755);
    start(&home, &[]).is_broken_saying(&["chmod 700"]);
}

#[test]
fn an_unusable_data_directory_is_named() {
    let home = Home::new();
    std::fs::write(home.data(), "a file").unwrap();
    start(&home, &[]).is_broken_saying(&["data", "--data-dir"]);
}

#[test]
fn a_second_instance_is_told_so() {
    let home = Home::new();
    let first = home.start(&[], "second", &[]);
    start(&home, &[]).is_broken_saying(&["another Peerline"]);
    let (_, code, words) = first.terminate();
    assert_eq!(code, Some(0), "{words}");
}

#[test]
fn ports_in_use_are_named() {
    let home = Home::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sip = format!("--sip=127.0.0.1:{}", taken.local_addr().unwrap().port());
    let mut args: Vec<&str> = NODE.iter().copied().filter(|arg| !arg.starts_with("--sip")).collect();
    args.extend(["--test-overlay", "faults", &sip]);
    home.run(&args).is_broken_saying(&["SIP port", "--sip"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let api = taken.local_addr().unwrap().to_string();
    start(&home, &["--api", &api]).is_broken_saying(&["local API", "--api"]);

    let listen = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let mut args: Vec<&str> = NODE.iter().copied().filter(|arg| !arg.starts_with("/ip4")).collect();
    let at = args.iter().position(|arg| *arg == "--listen").unwrap();
    args.insert(at + 1, &listen);
    args.extend(["--test-overlay", "faults"]);
    home.run(&args).is_broken_saying(&["listen", "--listen"]);
}

#[test]
fn an_address_that_is_none_is_named() {
    let home = Home::new();
    start(&home, &["--bootstrap", "nowhere"]).is_broken_saying(&["nowhere", "--bootstrap"]);
}

#[test]
fn an_overlay_nobody_knows_is_refused() {
    let home = Home::new();
    let args: Vec<&str> = NODE.iter().copied().chain(["--overlay", "nowhere.alt"]).collect();
    home.run(&args).is_broken_saying(&["nowhere.alt"]);
}

#[test]
fn a_damaged_store_is_set_aside_and_keys_are_untouched() {
    let home = Home::new();
    let node = home.start(&[], "damaged", &[]);
    let before = (node.text("peer_id"), node.info["users"][0]["number"].clone());
    node.terminate();
    let store = home.data().join("store");
    for entry in std::fs::read_dir(&store).unwrap().filter_map(Result::ok).filter(|e| e.path().is_file()) {
        std::fs::write(entry.path(), b"this is not a store").unwrap();
    }
    let node = home.start(&[], "damaged", &[]);
    assert_eq!((node.text("peer_id"), node.info["users"][0]["number"].clone()), before);
    let (_, code, words) = node.terminate();
    assert_eq!(code, Some(0));
    assert!(words.contains("damaged") && words.contains("fresh one"), "{words}");
}
