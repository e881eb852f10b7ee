use super::*;

const GOOD: &str = "OPTIONS sip:node@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK1\r\n\
    From: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

fn reason(text: &str, framing: Framing) -> &'static str {
    check(text.as_bytes(), framing).expect_err("must be refused").reason
}

#[test]
fn takes_a_plain_request_and_finds_its_body() {
    let text = GOOD.replace("Content-Length: 0\r\n\r\n", "l: 3\r\n\r\nabc");
    let shape = check(text.as_bytes(), Framing::Stream).expect("good");
    assert_eq!(&text[shape.body..shape.end], "abc");
    assert_eq!(shape.start, StartLine::Request { method: "OPTIONS", uri: "sip:node@127.0.0.1" });
}

#[test]
fn a_datagram_without_content_length_keeps_its_body_and_drops_a_surplus() {
    let text = GOOD.replace("Content-Length: 0\r\n\r\n", "\r\nabc");
    let shape = check(text.as_bytes(), Framing::Datagram).expect("good");
    assert_eq!(&text[shape.body..shape.end], "abc");
    let text = GOOD.replace("Content-Length: 0\r\n\r\n", "Content-Length: 2\r\n\r\nabc");
    let shape = check(text.as_bytes(), Framing::Datagram).expect("good");
    assert_eq!(&text[shape.body..shape.end], "ab");
    assert_eq!(reason(&text, Framing::Stream), "content-length");
}

#[test]
fn refuses_what_would_be_read_two_ways() {
    for (from, to, why) in [
        ("Content-Length: 0", "Content-Length: 0\r\nContent-Length: 5", "content-length"),
        ("Content-Length: 0", "Content-Length: 18446744073709551615", "content-length"),
        ("Content-Length: 0", "Content-Length: -1", "content-length"),
        ("Content-Length: 0", "Content-Length: +0", "content-length"),
        ("Content-Length: 0", "Content-Length:\r\n 0", "folding"),
        ("Call-ID: x", "Call-ID: x\r\ni: y", "mandatory-headers"),
        ("To: <sip:b@b>\r\n", "", "mandatory-headers"),
        ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE", "cseq"),
        ("CSeq: 1 OPTIONS", "CSeq: 2147483648 OPTIONS", "cseq"),
        ("CSeq: 1 OPTIONS", "CSeq: 99999999999999999999 OPTIONS", "cseq"),
        ("Call-ID: x", "Call-ID: x\nX: y", "control-character"),
        ("Call-ID: x", "Call-ID: x\0", "control-character"),
        ("Call-ID: x", "Call-ID x", "header-syntax"),
        ("SIP/2.0\r\nVia", "SIP/7.0\r\nVia", "version"),
        ("sip:node@127.0.0.1", "<sip:node@127.0.0.1>", "request-uri"),
        ("OPTIONS sip", "OPTIONS  sip", "start-line"),
        ("Via: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK1\r\n", "", "no-via"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        assert_eq!(reason(&text, Framing::Datagram), why, "{to:?}");
    }
    let many = GOOD.replace("Content-Length", &format!("{}Content-Length", "X: y\r\n".repeat(120)));
    assert_eq!(reason(&many, Framing::Datagram), "too-many-headers");
    let big = format!("{GOOD}{}", "x".repeat(9_000));
    assert_eq!(reason(&big, Framing::Datagram), "too-large");
}

#[test]
fn cuts_a_stream_at_any_split() {
    let text = format!("\r\n\r\n{}\r\n{}\r\n\r\n", GOOD, GOOD.replace("Content-Length: 0\r\n\r\n", "l: 3\r\n\r\nabc"));
    for step in 1..40 {
        let mut framer = Framer::default();
        let mut seen = Vec::new();
        for chunk in text.as_bytes().chunks(step) {
            framer.push(chunk);
            while let Some(framed) = framer.poll().expect("framed") {
                seen.push(framed);
            }
        }
        assert_eq!(seen.len(), 4, "step {step}");
        assert_eq!(seen[0], Framed::Ping);
        assert_eq!(seen[1], Framed::Message(Bytes::from(GOOD)));
        assert_eq!(seen[3], Framed::Ping);
    }
}

#[test]
fn a_stream_without_length_or_end_is_given_up() {
    let mut framer = Framer::default();
    framer.push(GOOD.replace("Content-Length: 0\r\n", "").as_bytes());
    assert_eq!(framer.poll().expect_err("lost").0.reason, "content-length");
    let mut framer = Framer::default();
    framer.push(&vec![b'a'; 20_000]);
    assert_eq!(framer.poll().expect_err("lost").0.reason, "head-too-large");
}
