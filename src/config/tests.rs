use super::*;

fn load(text: &str) -> Result<Settings, SettingsError> {
    Settings::from_toml(text, &Flags::default())
}

#[test]
fn an_empty_file_means_the_defaults_of_a_desktop() {
    assert_eq!(load("").unwrap(), Settings::of_role(Role::Desktop));
}

#[test]
fn the_role_in_the_file_chooses_the_defaults_and_a_flag_wins() {
    assert_eq!(load("role = \"gateway\"").unwrap(), Settings::of_role(Role::Gateway));
    let flags = Flags { role: Some(Role::Relay), ..Flags::default() };
    assert_eq!(Settings::from_toml("role = \"gateway\"", &flags).unwrap(), Settings::of_role(Role::Relay));
}

#[test]
fn an_unknown_key_is_named_with_its_table() {
    let error = load("[overlay]\nlisen = []\n").unwrap_err().to_string();
    assert!(error.contains("`overlay.lisen`"), "{error}");
    let error = load("colour = 1\n").unwrap_err().to_string();
    assert!(error.contains("`colour`"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_bad_value_names_its_key_in_one_line() {
    for (text, key) in [
        ("[sip]\nudp = \"here\"\n", "sip.udp"),
        ("[media]\nports = \"9-1\"\n", "media.ports"),
        ("[calls]\nring_timeout = \"soon\"\n", "calls.ring_timeout"),
        ("[binding]\nttl = \"4h\"\n", "binding.ttl"),
        ("[api]\nlisten = \"0.0.0.0:80\"\n", "api.listen"),
        ("role = \"phone\"\n", "role"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_file_that_is_not_toml_says_so_in_one_line() {
    let error = load("[overlay\n").unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn flags_win_over_the_file() {
    let flags = Flags {
        sip: Some(Listen::Off),
        bootstrap: vec!["/ip4/10.0.0.1/tcp/1".to_owned()],
        no_mdns: true,
        test_overlay: Some("seed".to_owned()),
        ..Flags::default()
    };
    let settings =
        Settings::from_toml("[overlay]\nbootstrap = [\"a\", \"b\"]\n[sip]\nudp = \"127.0.0.1:1\"\n", &flags).unwrap();
    assert_eq!(settings.overlay.bootstrap, ["/ip4/10.0.0.1/tcp/1"]);
    assert_eq!((settings.sip.udp, settings.sip.tcp), (Listen::Off, Listen::Off));
    assert!(!settings.overlay.mdns);
    assert_eq!(settings.overlay.test_seed.as_deref(), Some("seed"));
}

#[test]
fn the_example_file_parses_and_states_the_defaults() {
    let text = include_str!("../../deploy/peerline.toml");
    assert_eq!(load(text).unwrap(), Settings::of_role(Role::Desktop));
    // Every line that is commented out is a setting too: none may be stale.
    let all: String =
        text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).fold(String::new(), |a, l| a + l + "\n");
    load(&all).unwrap();
}

#[test]
fn shown_settings_can_be_read_again() {
    for role in [Role::Desktop, Role::Relay, Role::Gateway] {
        let settings = Settings::of_role(role);
        assert_eq!(load(&settings.to_toml()).unwrap(), settings);
    }
}

#[test]
fn overlays_never_share_an_id() {
    let built_in = ChosenOverlay::choose(&Settings::of_role(Role::Desktop).overlay).unwrap();
    assert_eq!(built_in.name, "peerline.alt");
    let (one, two) = (ChosenOverlay::private("one"), ChosenOverlay::private("two"));
    assert_ne!(one.id, two.id);
    assert_ne!(one.id, built_in.id);
    assert_eq!(one, ChosenOverlay::private("one"));
    let mut settings = Settings::of_role(Role::Desktop).overlay;
    settings.join = "nowhere.alt".to_owned();
    assert!(matches!(ChosenOverlay::choose(&settings), Err(OverlayChoiceError::Unknown(_))));
}
