//! Contact and To values: hostile text into borrowed parts, and when two contact URIs are the same (RFC 3261 §19.1.4).

/// Longest URI that is kept.
const MAX_URI_BYTES: usize = 512;

/// A `name-addr` or `addr-spec` with its header parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip) struct Address<'a> {
    /// Without angle brackets.
    pub uri: &'a str,
    /// Header parameters, `;` between them.
    parameters: &'a str,
}

impl<'a> Address<'a> {
    /// Parses one value; `None` when it is not one, or holds what could not be repeated safely in a message.
    pub fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let after_name = match value.strip_prefix('"') {
            Some(quoted) => quoted.get(closing_quote(quoted)? + 1..)?.trim_start(),
            None => value,
        };
        let (uri, rest) = match after_name.find('<') {
            Some(open) => after_name[open + 1..].split_once('>')?,
            None if value.starts_with('"') => return None,
            // Without brackets, parameters belong to the header (§20.10).
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        let (uri, parameters) = (uri.trim(), rest.trim());
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&byte);
        let sound = !uri.is_empty() && uri.len() <= MAX_URI_BYTES && uri.bytes().all(plain);
        let parameters = if parameters.is_empty() { "" } else { parameters.strip_prefix(';')? };
        sound.then_some(Self { uri, parameters })
    }

    /// A header parameter, without quotes.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        split_outside_quotes(self.parameters, ';').into_iter().find_map(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
        })
    }
}

/// The parts of `text` between separators that stand outside quotes and angle brackets; empty ones left out.
pub(in crate::sip) fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    let parts = text.split(|c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            _ => {}
        }
        c == separator && !quoted && !angle
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// A `sip:` or `sips:` URI in its parts.
#[derive(Clone, Debug)]
pub(super) struct SipUri<'a> {
    secure: bool,
    /// User part with password, as written.
    pub user: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    parameters: Vec<(&'a str, &'a str)>,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> SipUri<'a> {
    pub fn parse(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once(':')?;
        let secure = scheme.eq_ignore_ascii_case("sips");
        if !secure && !scheme.eq_ignore_ascii_case("sip") {
            return None;
        }
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, _)) if user.is_empty() || user.contains('@') => return None,
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (rest, headers) = rest.split_once('?').unwrap_or((rest, ""));
        let (host_port, parameters) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = host_and_port(host_port)?;
        Some(Self { secure, user, host, port, parameters: pairs(parameters, ';'), headers: pairs(headers, '&') })
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(_) => {
            let (host, rest) = text.split_at(text.find(']')? + 1);
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
    (!host.is_empty()).then_some((host, port))
}

fn pairs(text: &str, separator: char) -> Vec<(&str, &str)> {
    let parts = text.split(separator).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect()
}

/// Whether two contact URIs are the same binding (RFC 3261 §19.1.4): scheme, host and parameter names without case, user
/// with it; `user`, `ttl`, `method`, `maddr` and `transport` count when only one has them, others only when both do.
pub(super) fn same_uri(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (SipUri::parse(a), SipUri::parse(b)) else { return false };
    let user = match (a.user, b.user) {
        (None, None) => true,
        (Some(a), Some(b)) => unescaped(a) == unescaped(b),
        (Some(_), None) | (None, Some(_)) => false,
    };
    let always =
        |name: &str| ["user", "ttl", "method", "maddr", "transport"].iter().any(|n| name.eq_ignore_ascii_case(n));
    let agree = |from: &SipUri<'_>, to: &SipUri<'_>| {
        from.parameters.iter().all(|(name, value)| match to.parameter(name) {
            Some(other) => unescaped(value).eq_ignore_ascii_case(&unescaped(other)),
            None => !always(name),
        })
    };
    let headers = |from: &SipUri<'_>, to: &SipUri<'_>| {
        from.headers
            .iter()
            .all(|(name, value)| to.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value))
    };
    a.secure == b.secure
        && user
        && a.host.eq_ignore_ascii_case(b.host)
        && a.port == b.port
        && agree(&a, &b)
        && agree(&b, &a)
        && headers(&a, &b)
        && headers(&b, &a)
}

/// `%41` and `A` are the same character (§19.1.4). Undecodable text stays as it is.
pub(super) fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
