//! Names and addresses in headers: `"Display" <uri>;params`, comma lists, URI parts, and the cleaning of text that goes
//! out. Nothing here trusts its input; what is written can hold no line break and no unescaped quote.

use rsipstack::sip::uri::parse_uri;
use std::net::IpAddr;

/// Longest display name passed on, in characters.
const MAX_DISPLAY: usize = 64;
/// Longest reason phrase passed on, in characters.
const MAX_WORDS: usize = 120;
/// Longest URI taken from a peer, in bytes.
const MAX_URI: usize = 512;

/// `name-addr` or `addr-spec` with header parameters (RFC 3261 §20.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameAddr<'a> {
    pub display: Option<String>,
    /// Exactly as sent.
    pub uri: &'a str,
    /// After the URI, starting with `;` or empty.
    pub params: &'a str,
}

impl<'a> NameAddr<'a> {
    pub(super) fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let (display, rest) = if value.starts_with('"') {
            let end = closing_quote(value)?;
            (Some(unescape(&value[1..end])), value[end + 1..].trim_start())
        } else {
            (None, value)
        };
        let parsed = match rest.find('<') {
            Some(open) => {
                let close = open + rest[open..].find('>')?;
                let display = display.or_else(|| Some(rest[..open].trim().to_owned()).filter(|name| !name.is_empty()));
                Self { display, uri: rest[open + 1..close].trim(), params: rest[close + 1..].trim() }
            }
            None if display.is_some() => return None,
            // Without brackets, parameters belong to the header (RFC 3261 §20.10).
            None => {
                let end = rest.find(';').unwrap_or(rest.len());
                Self { display: None, uri: rest[..end].trim(), params: &rest[end..] }
            }
        };
        let sound = !parsed.uri.is_empty()
            && parsed.uri.len() <= MAX_URI
            && (parsed.params.is_empty() || parsed.params.starts_with(';'))
            && !parsed.uri.contains([' ', '\t', '"', '<', '>']);
        sound.then_some(parsed)
    }

    pub(super) fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }

    /// The tag, when there is a usable one.
    pub(super) fn tag(&self) -> Option<&'a str> {
        self.param("tag").filter(|tag| !tag.is_empty() && tag.len() <= 256)
    }
}

fn closing_quote(value: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut escaped = false;
    for c in quoted.chars() {
        if !escaped && c == '\\' {
            escaped = true;
        } else {
            escaped = false;
            text.push(c);
        }
    }
    text
}

/// Splits at `separator` outside quotes and angle brackets.
pub(super) fn split_outside(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    value
        .split(move |c: char| {
            if escaped {
                escaped = false;
                return false;
            }
            match c {
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '<' if !quoted => angle = true,
                '>' if !quoted => angle = false,
                _ => return c == separator && !quoted && !angle,
            }
            false
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// The value of a `;name=value` parameter; empty for a flag. Quotes around the value are left out.
pub(super) fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    split_outside(params, ';').find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The parts of a SIP URI that decisions are made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UriParts {
    /// Percent-decoded; empty when the URI has none.
    pub user: String,
    /// Lower case, without port; an IPv6 address without brackets.
    pub host: String,
    pub port: Option<u16>,
    pub secure: bool,
}

impl UriParts {
    /// `None` when it is no `sip:` or `sips:` URI.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        let bare = uri.trim();
        let scheme = bare.split_once(':')?.0;
        let secure = scheme.eq_ignore_ascii_case("sips");
        if (!secure && !scheme.eq_ignore_ascii_case("sip")) || bare.len() > MAX_URI {
            return None;
        }
        let parsed = parse_uri(bare).ok()?;
        let user = match parsed.auth {
            Some(auth) => percent_decode(&auth.user)?,
            None => String::new(),
        };
        let host = match parsed.host_with_port.host {
            rsipstack::sip::Host::Domain(domain) => domain.0.to_ascii_lowercase(),
            rsipstack::sip::Host::IpAddr(ip) => ip.to_string(),
        };
        let clean = |text: &str| !text.chars().any(|c| c.is_control() || c == ' ');
        (clean(&user) && !host.is_empty() && clean(&host)).then_some(Self {
            user,
            host,
            port: parsed.host_with_port.port.map(|port| port.0),
            secure,
        })
    }

    /// Whether both name the same user at the same host. Numbers compare without regard to case.
    pub(super) fn same_address(&self, other: &Self) -> bool {
        self.user.eq_ignore_ascii_case(&other.user) && self.host == other.host
    }

    pub(super) fn host_ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit))?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A display name that people may see: no control characters, at most 64 characters; `None` when nothing is left.
pub(super) fn clean_display(display: &str) -> Option<String> {
    let clean: String = display.chars().filter(|c| !c.is_control()).take(MAX_DISPLAY).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// `"Display" ` (quoted, escaped, with the blank) or nothing.
pub(super) fn quoted_display(display: Option<&str>) -> String {
    match display.and_then(clean_display) {
        Some(name) => format!("{} ", quoted(&name)),
        None => String::new(),
    }
}

/// A quoted-string (RFC 3261 §25.1).
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A reason phrase: one line, at most 120 characters.
pub(super) fn clean_words(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect::<String>().trim().to_owned()
}

/// A URI that is safe inside `<>` and on a request line; `None` when it is not.
pub(super) fn clean_uri(uri: &str) -> Option<&str> {
    let uri = uri.trim();
    let safe = uri.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"<>\"\\^`{|}".contains(&b));
    (safe && !uri.is_empty() && uri.len() <= MAX_URI && uri.contains(':')).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_names_addresses_and_tags() {
        let from = NameAddr::parse(r#""A \"B\" <c>, d" <sip:u%40x@h:5;p=1>;tag=t1;x="a;b""#).expect("parses");
        assert_eq!(from.display.as_deref(), Some(r#"A "B" <c>, d"#));
        assert_eq!((from.uri, from.tag(), from.param("x")), ("sip:u%40x@h:5;p=1", Some("t1"), Some("a;b")));
        let bare = NameAddr::parse("sip:a@b;tag=2").expect("parses");
        assert_eq!((bare.uri, bare.tag()), ("sip:a@b", Some("2")));
        assert_eq!(NameAddr::parse("Alice <sip:a@b>").expect("parses").display.as_deref(), Some("Alice"));
        for bad in ["", "\"x", "<sip:a@b", "\"x\" sip:a", "<>", "<sip:a b>", "<sip:a@b> tag=1"] {
            assert_eq!(NameAddr::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn splits_lists_only_where_commas_separate() {
        let all: Vec<_> = split_outside(r#"<sip:a;x=1,2>;lr, "q,\",r" <sip:b> ,"#, ',').collect();
        assert_eq!(all, ["<sip:a;x=1,2>;lr", r#""q,\",r" <sip:b>"#]);
    }

    #[test]
    fn uris_compare_by_user_and_host() {
        let a = UriParts::parse("sip:AbC@Peer.Alt:5060;transport=tcp").expect("uri");
        assert!(a.same_address(&UriParts::parse("sips:abc@peer.alt").expect("uri")));
        assert!(!a.same_address(&UriParts::parse("sip:abc@peer.alt.evil").expect("uri")));
        assert_eq!(UriParts::parse("sip:a%40b@h").expect("uri").user, "a@b");
        assert_eq!(UriParts::parse("sip:[::1]:9").expect("uri").host, "::1");
        for bad in ["tel:+1", "abc@h", "sip:", "sip:a%0d%0ab@h", "sip:a%zz@h", "sip:%ff@h"] {
            assert_eq!(UriParts::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_goes_out_breaks_a_line(text in "\\PC*|[\\x00-\\x7f]{0,200}") {
            for out in [quoted(&text), quoted_display(Some(&text)), clean_words(&text), clean_uri(&text).unwrap_or("").to_owned()] {
                prop_assert!(!out.contains(['\r', '\n', '\0']));
            }
            let value = format!("{}<sip:a@b>;tag=x", quoted_display(Some(&text)));
            let parsed = NameAddr::parse(&value).expect("what we write parses");
            prop_assert_eq!(parsed.uri, "sip:a@b");
            prop_assert_eq!(parsed.display, clean_display(&text));
        }

        #[test]
        fn parsers_never_panic(text in "\\PC{0,300}") {
            let _ = NameAddr::parse(&text);
            let _ = UriParts::parse(&text);
            let _ = UriParts::parse(&format!("sip:{text}"));
            let _ = split_outside(&text, ',').count();
            let _ = param(&text, "x");
        }
    }
}
