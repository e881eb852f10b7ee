use super::*;

fn user(byte: u8) -> IdHash {
    IdHash([byte; 22])
}

fn directory() -> Directory {
    let account = |name: &str, of: u8, extension: Option<&str>| PhoneAccount {
        name: name.to_owned(),
        password: "secret".to_owned(),
        sha256: false,
        user: user(of).to_string(),
        extension: extension.map(str::to_owned),
        display: None,
    };
    let accounts = [account("desk", 1, Some("12")), account("kitchen", 1, None), account("anna", 2, Some("*5"))];
    Directory {
        overlay_name: "peerline.alt".to_owned(),
        accounts: accounts.into_iter().map(|account| (account.name.clone(), account)).collect(),
        contacts: [("mum".to_owned(), user(7)), ("my-boss.2".to_owned(), user(8)), ("anna".to_owned(), user(9))].into(),
    }
}

#[test]
fn names_extensions_and_accounts_lead_somewhere_in_every_spelling() {
    let book = directory();
    let account = |name: &str| Ok(Route::Account(name.to_owned()));
    for dialled in ["12", "sip:12@127.0.0.1", "sip:12@127.0.0.1:5070;transport=udp", "sip:12@[::1]:5060", "tel:12"] {
        assert_eq!(book.resolve(dialled), account("desk"), "{dialled}");
    }
    assert_eq!(book.resolve("tel:12;phone-context=peerline.alt"), account("desk"));
    assert_eq!(book.resolve("\"Desk\" <sips:12@Peerline.ALT.>;tag=1"), account("desk"));
    assert_eq!(book.resolve("sip:12;phone-context=x@localhost;user=phone"), account("desk"));
    assert_eq!(book.resolve("%2A5@peerline.alt"), account("anna"));
    assert_eq!(book.resolve("Kitchen"), account("kitchen"));
    for dialled in ["mum", "MUM", "sip:mum@peerline.alt", "mum@10.0.0.1", " Mum ", "sip:mum:pw@peerline.alt?x=y"] {
        assert_eq!(book.resolve(dialled), Ok(Route::User(user(7))), "{dialled}");
    }
    assert_eq!(book.resolve("my-boss.2"), Ok(Route::User(user(8))));
    for dialled in ["echo", "ECHO", "sip:Echo@127.0.0.1:5070"] {
        assert_eq!(book.resolve(dialled), Ok(Route::Echo));
    }
}

#[test]
fn a_contact_goes_before_an_account_of_the_same_name() {
    assert_eq!(directory().resolve("anna"), Ok(Route::User(user(9))));
}

#[test]
fn numbers_are_read_in_groups_and_any_case() {
    let (book, number) = (directory(), user(3).to_string());
    let spelled = [
        number.clone(),
        number.to_uppercase(),
        format!("sip:{number}@peerline.alt"),
        user(3).grouped(),
        user(3).grouped().replace(' ', "-"),
        format!("sip:{}@peerline.alt", user(3).grouped().replace(' ', "%20")),
    ];
    for dialled in spelled {
        assert_eq!(book.resolve(&dialled), Ok(Route::User(user(3))), "{dialled}");
    }
}

/// A number of format 2, with its checksum.
fn newer() -> String {
    use sha2::{Digest as _, Sha256};
    let checksum =
        Sha256::new().chain_update(b"peerline-uri-chk-1").chain_update([0x20]).chain_update([3; 22]).finalize();
    let bytes = [&[0x20][..], &[3; 22], &checksum[..2]].concat();
    data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase()
}

#[test]
fn tells_mistyped_newer_elsewhere_and_unknown_apart() {
    let (book, number) = (directory(), user(3).to_string());
    let mut slip = number.clone().into_bytes();
    slip[10] = if slip[10] == b'a' { b'b' } else { b'a' };
    assert_eq!(book.resolve(&String::from_utf8(slip).unwrap()), Err(DialError::Mistyped));
    assert_eq!(book.resolve(&number[1..]), Err(DialError::Mistyped));
    assert_eq!(book.resolve(&format!("{number}q")), Err(DialError::Mistyped));
    assert_eq!(book.resolve(&newer()), Err(DialError::Newer));
    assert_eq!(book.resolve(&format!("sip:{number}@other.alt")), Err(DialError::OtherOverlay));
    assert_eq!(book.resolve("sip:mum@example.com"), Err(DialError::OtherOverlay));
    for dialled in ["", "nobody", "sip:", "sip:@peerline.alt", "sip:peerline.alt", "<sip:mum", "99", "tel:+4930123456"]
    {
        assert_eq!(book.resolve(dialled), Err(DialError::Unknown), "{dialled}");
    }
    assert_eq!(book.resolve(&"a".repeat(10_000)), Err(DialError::Unknown));
}

#[test]
fn phones_of_a_user_ring_together() {
    let book = directory();
    let names = |of| book.accounts_of(&user(of)).into_iter().map(|account| account.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names(1), ["desk", "kitchen"]);
    assert_eq!(names(2), ["anna"]);
    assert!(names(3).is_empty());
}

#[test]
fn names_have_rules() {
    for name in ["a", "mum", "my-boss.2", "x_y", &"a".repeat(32)] {
        assert!(is_valid_name(name), "{name}");
    }
    for name in ["", "Mum", "a b", "é", "a@b", "..", "echo", &"a".repeat(33)] {
        assert!(!is_valid_name(name), "{name}");
    }
    assert!(is_valid_extension("12") && is_valid_extension("*5#"));
    assert!(!is_valid_extension("") && !is_valid_extension("1a") && !is_valid_extension("123456789"));
}

proptest::proptest! {
    #[test]
    fn never_panics(dialled in ".{0,80}") {
        let _ = directory().resolve(&dialled);
    }

    #[test]
    fn never_panics_on_uri_like_text(dialled in "(sips?:|tel:|<)?[a-z0-9%@:;?\\[\\]<>. +-]{0,60}") {
        let _ = directory().resolve(&dialled);
    }
}
