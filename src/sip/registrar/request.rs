//! What a REGISTER asks for, read and judged before anything is changed (RFC 3261 §10.3 steps 5 to 7).

use super::address::{Address, SipUri, split_outside_quotes};
use super::{MAX_INSTANCE_BYTES, RegisterRequest, plain};
use std::time::Duration;

/// Shorter registrations are refused with 423: they cost the overlay more than they help. RFC 3261 §10.3 lets us refuse
/// up to one hour; a minute is what phones behind NAT use.
pub(super) const MIN_EXPIRES: Duration = Duration::from_secs(60);
/// Longest, and what a phone gets that does not ask: the life of a binding.
pub(super) const MAX_EXPIRES: Duration = Duration::from_secs(3600);
/// Contacts in one request.
const MAX_CONTACTS: usize = 16;
/// Longest Call-ID kept.
const MAX_CALL_ID_BYTES: usize = 256;

/// One contact of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub uri: String,
    pub instance: Option<String>,
    pub q: u16,
    /// Zero = remove.
    pub expires: Duration,
}

/// The whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// No Contact: tell me.
    Fetch,
    /// `Contact: *` with `Expires: 0`.
    RemoveAll,
    Bind(Vec<Wanted>),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unasked {
    /// 400.
    Malformed(&'static str),
    /// 423.
    TooBrief,
}

/// Reads the contacts and their lives.
///
/// # Errors
/// `Malformed` and `TooBrief`, as their answers say.
pub(super) fn read(request: &RegisterRequest<'_>) -> Result<Ask, Unasked> {
    if request.call_id.len() > MAX_CALL_ID_BYTES || request.call_id.is_empty() {
        return Err(Unasked::Malformed("Bad Call-ID"));
    }
    let values: Vec<&str> = request.contacts.iter().flat_map(|line| split_outside_quotes(line, ',')).collect();
    let header = request.expires.map(seconds);
    if values.is_empty() {
        return Ok(Ask::Fetch);
    }
    if values.iter().any(|value| value.starts_with('*')) {
        let all = values == ["*"] && header == Some(Duration::ZERO);
        return if all { Ok(Ask::RemoveAll) } else { Err(Unasked::Malformed("Contact * needs Expires 0")) };
    }
    if values.len() > MAX_CONTACTS {
        return Err(Unasked::Malformed("Too Many Contacts"));
    }
    values.into_iter().map(|value| wanted(value, header)).collect::<Result<_, _>>().map(Ask::Bind)
}

fn wanted(value: &str, header: Option<Duration>) -> Result<Wanted, Unasked> {
    const BAD: Unasked = Unasked::Malformed("Bad Contact");
    let address = Address::parse(value).ok_or(BAD)?;
    SipUri::parse(address.uri).ok_or(BAD)?;
    let instance = match address.parameter("+sip.instance") {
        Some(text) if text.len() > MAX_INSTANCE_BYTES || !plain(text) => return Err(BAD),
        Some(text) => Some(text.to_owned()).filter(|text| !text.is_empty()),
        None => None,
    };
    let expires = address.parameter("expires").map(seconds).or(header).unwrap_or(MAX_EXPIRES).min(MAX_EXPIRES);
    if !expires.is_zero() && expires < MIN_EXPIRES {
        return Err(Unasked::TooBrief);
    }
    let q = address.parameter("q").map_or(Some(1000), thousandths).ok_or(BAD)?;
    Ok(Wanted { uri: address.uri.to_owned(), instance, q, expires })
}

/// Delta seconds; malformed text counts as one hour (RFC 3261 §20.19), and so does more than an hour.
fn seconds(text: &str) -> Duration {
    text.trim().parse().map_or(MAX_EXPIRES, |seconds: u32| Duration::from_secs(seconds.into())).min(MAX_EXPIRES)
}

/// `qvalue` (RFC 3261 §25.1): 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || decimals.len() > 3 || !["0", "1"].contains(&whole) {
        return None;
    }
    let value = format!("{whole}{decimals:0<3}").parse().ok()?;
    (value <= 1000).then_some(value)
}
