//! Commands that need no running node.

use crate::program::Home;

#[test]
fn settings_are_checked_and_shown() {
    let home = Home::new();
    assert_eq!(home.run(&["config", "check"]).code, 0);
    let shown = home.run(&["config", "show", "--json"]).json();
    assert_eq!(shown["role"], "desktop");
    assert_eq!(shown["sip"]["udp"], "127.0.0.1:5070");
}

#[test]
fn recovery_words_bring_the_same_number_back_on_an_empty_machine() {
    let first = Home::new();
    let made = first.run(&["phone", "add", "desk", "--new-user", "--json", "--no-passphrase"]);
    assert_eq!(made.code, 0, "{made:?}");
    // There is no terminal: a file that only its owner reads, and not one word in the output, which may be a log.
    let file = first.data().join("recovery-words.txt");
    assert!(made.words.contains("recovery-words.txt"), "{made:?}");
    let kept = std::fs::read_to_string(&file).unwrap();
    let words = kept.lines().find(|line| !line.starts_with('#')).unwrap().to_owned();
    assert_eq!(words.split(' ').count(), 24);
    assert!(!made.words.contains(&words[..20]) && !made.out.contains(&words[..20]), "{made:?}");
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    assert!(first.run(&["status"]).words.contains("still in"));
    std::fs::remove_file(&file).unwrap();
    assert!(!first.run(&["status"]).words.contains("still in"));

    let second = Home::new();
    let back = second.run_with_input(&["id", "import", "--json", "--no-passphrase"], &kept);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(back.json()["number"], made.json()["number"]);

    let mistyped = words.replacen(words.split(' ').next().unwrap(), "zoo", 1);
    Home::new().run_with_input(&["id", "import", "--no-passphrase"], &mistyped).is_broken_saying(&["recovery words"]);
}

#[test]
fn an_identity_travels_in_a_file_under_a_passphrase() {
    let first = Home::new();
    let number = first.run(&["phone", "add", "desk", "--json"]).json()["number"].clone();
    let secret = first.data().join("secret");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let copy = first.data().join("copy.id");
    let (secret, copy) = (secret.to_str().unwrap(), copy.to_str().unwrap());
    assert_eq!(first.run(&["id", "export", copy, "--passphrase-file", secret]).code, 0);

    let second = Home::new();
    second.run(&["id", "import", copy, "--no-passphrase"]).is_broken_saying(&["passphrase"]);
    let back = second.run(&["id", "import", copy, "--json", "--passphrase-file", secret]);
    assert_eq!(back.json()["number"], number, "{back:?}");
}

#[test]
fn phones_are_added_listed_and_removed() {
    let home = Home::new();
    let made = home.run(&["phone", "add", "desk", "--extension", "12", "--json"]).json();
    assert_eq!(made["number"].as_str().map(str::len), Some(40));
    assert!(made["password"].as_str().is_some_and(|p| p.len() == 20));
    assert_eq!(home.run(&["phone", "list", "--json"]).json()[0]["extension"], "12");
    home.run(&["phone", "add", "desk"]).is_broken_saying(&["desk", "already"]);
    home.run(&["phone", "add", "hall", "--extension", "12"]).is_broken_saying(&["extension 12"]);
    home.run(&["phone", "add", "Hall way"]).is_broken_saying(&["not a name"]);
    assert_eq!(home.run(&["phone", "remove", "desk"]).code, 0);
    assert_eq!(home.run(&["phone", "list", "--json"]).json(), serde_json::json!([]));
    home.run(&["phone", "remove", "desk"]).is_broken_saying(&["desk"]);
}

#[test]
fn contacts_take_numbers_and_refuse_mistyped_ones() {
    let home = Home::new();
    let number = home.run(&["phone", "add", "desk", "--json"]).json()["number"].as_str().unwrap().to_owned();
    assert_eq!(home.run(&["contacts", "add", "anna", &number]).code, 0);
    let listed = home.run(&["contacts", "list", "--json"]).json();
    assert_eq!((&listed[0]["name"], &listed[0]["number"]), (&"anna".into(), &number.clone().into()));
    let last = if number.ends_with('a') { "b" } else { "a" };
    let mistyped = format!("{}{last}", &number[..39]);
    home.run(&["contacts", "add", "ben", &mistyped]).is_broken_saying(&["mistyped"]);
    home.run(&["contacts", "add", "ben", "hello"]).is_broken_saying(&["hello"]);
    assert_eq!(home.run(&["contacts", "remove", "anna"]).code, 0);
}

#[test]
fn a_card_becomes_a_contact_in_its_own_overlay_only() {
    let (anna, ben) = (Home::new(), Home::new());
    let number = anna.run(&["phone", "add", "desk", "--json"]).json()["number"].clone();
    let card = anna.run(&["id", "card", "--nickname", "Anna", "--json"]).json()["card"].as_str().unwrap().to_owned();
    assert!(card.starts_with("peerline:card/"), "{card}");
    let added = ben.run(&["contacts", "add", "anna", &card]);
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(ben.run(&["contacts", "list", "--json"]).json()[0]["number"], number);
    ben.run(&["contacts", "add", "anna", &card, "--test-overlay", "other"]).is_broken_saying(&["another overlay"]);
    let at = card.len() - 20;
    let other = if card.as_bytes()[at] == b'a' { "b" } else { "a" };
    let altered = format!("{}{other}{}", &card[..at], &card[at + 1..]);
    ben.run(&["contacts", "add", "eve", &altered]).is_broken_saying(&["card is not valid"]);
    ben.run(&["contacts", "add", "eve", "peerline:card/"]).is_broken_saying(&["card is not valid"]);
    anna.run(&["id", "card", "--nickname", &"x".repeat(60)]).is_broken_saying(&["nickname"]);
}

#[test]
fn without_a_node_status_says_no() {
    let home = Home::new();
    let status = home.run(&["status", "--json"]);
    assert_eq!((status.code, status.out.as_str()), (1, ""));
}
